/*-------------------------------------------------------------------------
 *
 * cursor_row.h
 *		The row that a subscription's cursor is kept in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CURSOR_ROW_H
#define OI_CURSOR_ROW_H

#include "drain.h"

extern bool oi_cursor_row_read(const OiSubscription *sub, OiCursor *cursor);
extern bool oi_cursor_row_is_current(const OiSubscription *sub, const OiCursor *cursor);
extern bool oi_cursor_row_update(const OiSubscription *sub, OiCursor *cursor,
								 const OiTally *tally);
extern void oi_cursor_set_end(OiCursor *cursor);

#endif							/* OI_CURSOR_ROW_H */
