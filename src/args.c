/*-------------------------------------------------------------------------
 *
 * args.c
 *		Arguments of the SQL functions, checked.
 *
 * 22004 for a null that may not be, 22001 for a text that is too long, 54000
 * for JSON over max_payload or with too long a text, 22023 for everything else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "utils/builtins.h"

#include "args.h"
#include "guc.h"
#include "jsonb_text.h"
#include "ledger.h"

/* Raises 22004 for a null. */
void
oi_arg_require(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/* A text of 1 to max bytes; NULL for null, where that may be. */
text *
oi_arg_text(FunctionCallInfo fcinfo, int n, const char *name, int max,
			bool required)
{
	text	   *value;

	if (required)
		oi_arg_require(fcinfo, n, name);
	if (PG_ARGISNULL(n))
		return NULL;
	if (toast_raw_datum_size(PG_GETARG_DATUM(n)) - VARHDRSZ > (Size) max)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("%s is too long", name),
				 errdetail("At most %d bytes are allowed.", max)));
	value = PG_GETARG_TEXT_PP(n);
	if (VARSIZE_ANY_EXHDR(value) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	return value;
}

/* A jsonb of at most max_payload bytes and with a text that can be made; NULL for null. */
Jsonb *
oi_arg_jsonb(FunctionCallInfo fcinfo, int n, const char *name)
{
	Jsonb	   *value;
	Size		size;

	if (PG_ARGISNULL(n))
		return NULL;
	size = toast_raw_datum_size(PG_GETARG_DATUM(n)) - VARHDRSZ;
	if (size > (Size) oi_max_payload)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", name),
				 errdetail("It has %zu bytes; order_idempotency.max_payload is %d.",
						   size, oi_max_payload),
				 errhint("Store large data elsewhere, and refer to it.")));
	value = PG_GETARG_JSONB_P(n);
	if (!oi_jsonb_text_fits(value))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", name),
				 errdetail("As text it has about %d bytes or more.", oi_jsonb_text_most(value)),
				 errhint("Pass numbers of very many digits as strings, or leave them out.")));
	return value;
}

/* An amount in minor units, zero or more. */
int64
oi_arg_amount(FunctionCallInfo fcinfo, int n)
{
	oi_arg_require(fcinfo, n, "amount");
	if (PG_GETARG_INT64(n) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("amount must not be negative"),
				 errhint("Amounts are in minor units, such as cents.")));
	return PG_GETARG_INT64(n);
}

/* A currency: three capital letters, as in ISO 4217. */
text *
oi_arg_currency(FunctionCallInfo fcinfo, int n)
{
	text	   *value;
	bool		good;

	oi_arg_require(fcinfo, n, "currency");
	value = PG_GETARG_TEXT_PP(n);
	good = VARSIZE_ANY_EXHDR(value) == 3;
	for (int i = 0; i < 3 && good; i++)
		good = VARDATA_ANY(value)[i] >= 'A' && VARDATA_ANY(value)[i] <= 'Z';
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("currency must be three capital letters"),
				 errhint("Use an ISO 4217 code such as EUR.")));
	return value;
}

/* An account, or NULL; not one of the house's. */
text *
oi_arg_account(FunctionCallInfo fcinfo, int n)
{
	text	   *value = oi_arg_text(fcinfo, n, "account", OI_MAX_KEY, false);

	if (value && oi_ledger_reserved(text_to_cstring(value)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("account \"%s\" is reserved", text_to_cstring(value)),
				 errdetail("The ledger uses it for its own side of movements.")));
	return value;
}

/* An interval, NULL for null. */
Interval *
oi_arg_interval(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_INTERVAL_P(n);
}

/* An attempt, 1 or more; 0 for null. */
int
oi_arg_attempt(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return 0;
	if (PG_GETARG_INT32(n) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("attempt must be 1 or more"),
				 errhint("Pass the attempt that claim_key returned.")));
	return PG_GETARG_INT32(n);
}

/* One of two words; is it the second?  Null is the first, the default. */
bool
oi_arg_word(FunctionCallInfo fcinfo, int n, const char *name,
			const char *off, const char *on)
{
	char	   *word;

	if (PG_ARGISNULL(n))
		return false;
	word = text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (strcmp(word, on) != 0 && strcmp(word, off) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for %s: \"%s\"", name, word),
				 errhint("Valid values are \"%s\" and \"%s\".", off, on)));
	return strcmp(word, on) == 0;
}
