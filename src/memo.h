/*-------------------------------------------------------------------------
 *
 * memo.h
 *		One statement, one answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_MEMO_H
#define OI_MEMO_H

#include "fmgr.h"

extern bool oi_memo_wanted(FunctionCallInfo fcinfo);
extern uint64 oi_memo_hash(FunctionCallInfo fcinfo, const int16 *typlens);
extern bool oi_memo_find(FunctionCallInfo fcinfo, uint64 hash, Datum *answer);
extern void oi_memo_keep(FunctionCallInfo fcinfo, uint64 hash, Datum answer);

#endif							/* OI_MEMO_H */
