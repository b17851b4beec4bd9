/*-------------------------------------------------------------------------
 *
 * deadline_failure.h
 *		Orders that could not be cancelled when their deadline was over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DEADLINE_FAILURE_H
#define OI_DEADLINE_FAILURE_H

#include "deadline_row.h"

extern void oi_failure_note(OiDeadline *row, const ErrorData *error);
extern void oi_failures_clear(const OiDueRows *due, const bool *gone);
extern void oi_failures_forget(Datum *keys, int n);

#endif							/* OI_DEADLINE_FAILURE_H */
