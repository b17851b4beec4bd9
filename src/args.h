/*-------------------------------------------------------------------------
 *
 * args.h
 *		Arguments of the SQL functions, checked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ARGS_H
#define OI_ARGS_H

#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#define OI_MAX_KEY 255			/* bytes, of keys, accounts, event types */
#define OI_MAX_STATE 63
#define OI_MAX_REASON 1024

extern void oi_arg_require(FunctionCallInfo fcinfo, int n, const char *name);
extern text *oi_arg_text(FunctionCallInfo fcinfo, int n, const char *name,
						 int max, bool required);
extern Jsonb *oi_arg_jsonb(FunctionCallInfo fcinfo, int n, const char *name);
extern int64 oi_arg_amount(FunctionCallInfo fcinfo, int n);
extern text *oi_arg_currency(FunctionCallInfo fcinfo, int n);
extern text *oi_arg_account(FunctionCallInfo fcinfo, int n);
extern Interval *oi_arg_interval(FunctionCallInfo fcinfo, int n);
extern int	oi_arg_attempt(FunctionCallInfo fcinfo, int n);
extern bool oi_arg_word(FunctionCallInfo fcinfo, int n, const char *name,
						const char *off, const char *on);

#endif							/* OI_ARGS_H */
