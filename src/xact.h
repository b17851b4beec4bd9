/*-------------------------------------------------------------------------
 *
 * xact.h
 *		What the extension adds to a transaction that writes through it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_XACT_H
#define OI_XACT_H

#include "datatype/timestamp.h"

extern void oi_xact_init(void);
extern void oi_xact_check_writable(const char *command);
extern void oi_xact_note_write(void);
extern void oi_xact_note_event(void);
extern void oi_xact_note_deadline(TimestampTz due);

#endif							/* OI_XACT_H */
