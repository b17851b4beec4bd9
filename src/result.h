/*-------------------------------------------------------------------------
 *
 * result.h
 *		Rows that SQL functions return.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_RESULT_H
#define OI_RESULT_H

#include "fmgr.h"

extern Datum oi_result_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls);

#endif							/* OI_RESULT_H */
