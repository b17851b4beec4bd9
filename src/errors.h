/*-------------------------------------------------------------------------
 *
 * errors.h
 *		The SQLSTATE class of order_idempotency.
 *
 * docs/reference.md has the table that says which function raises which.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ERRORS_H
#define OI_ERRORS_H

#include "utils/elog.h"

/* the key or request key was used before, with a different request */
#define ERRCODE_OI_MISMATCH MAKE_SQLSTATE('O', 'I', '0', '0', '1')

/* another transaction holds the key, and did not end within in_flight_wait */
#define ERRCODE_OI_IN_PROGRESS MAKE_SQLSTATE('O', 'I', '0', '0', '2')

/* the lifecycle does not allow the change */
#define ERRCODE_OI_ILLEGAL_TRANSITION MAKE_SQLSTATE('O', 'I', '0', '0', '3')

/* there is no order of that key */
#define ERRCODE_OI_MISSING MAKE_SQLSTATE('O', 'I', '0', '0', '4')

/* the order was cancelled before it was created */
#define ERRCODE_OI_REFUSED MAKE_SQLSTATE('O', 'I', '0', '0', '5')

#endif							/* OI_ERRORS_H */
