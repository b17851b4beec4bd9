/*-------------------------------------------------------------------------
 *
 * ledger.c
 *		The movements of money.
 *
 * One row for each change of an order that moves money, if the order has an
 * account.  The other side is an account of the house: escrow keeps what is
 * held, revenue what was captured.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ledger.h"
#include "relation.h"

/* the columns of table ledger */
enum
{
	COL_ORDER_KEY,
	COL_VERSION,
	COL_EFFECT,
	COL_DEBIT_ACCOUNT,
	COL_CREDIT_ACCOUNT,
	COL_AMOUNT,
	COL_CURRENCY,
	COL_POSTED_AT,
	COL_COUNT
};

/* each effect's source and target; NULL is the order's account */
static const struct
{
	const char *debit;
	const char *credit;
}			sides[] = {
	[OI_EFFECT_HOLD] = {NULL, "escrow"},
	[OI_EFFECT_CAPTURE] = {"escrow", "revenue"},
	[OI_EFFECT_RELEASE] = {"escrow", NULL},
	[OI_EFFECT_REFUND] = {"revenue", NULL},
};

/* Is this an account of the house, which no order can have? */
bool
oi_ledger_reserved(const char *account)
{
	return strcmp(account, "escrow") == 0 || strcmp(account, "revenue") == 0;
}

/* Writes one movement, as part of the current transaction. */
void
oi_ledger_post(const OiMovement *movement)
{
	const char *debit = sides[movement->effect].debit;
	const char *credit = sides[movement->effect].credit;
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT] = {0};

	Assert(movement->effect > OI_EFFECT_NONE);
	values[COL_ORDER_KEY] = PointerGetDatum(movement->order_key);
	values[COL_VERSION] = Int32GetDatum(movement->version);
	values[COL_EFFECT] = CStringGetTextDatum(oi_effect_name(movement->effect));
	values[COL_DEBIT_ACCOUNT] = debit ? CStringGetTextDatum(debit) :
		PointerGetDatum(movement->account);
	values[COL_CREDIT_ACCOUNT] = credit ? CStringGetTextDatum(credit) :
		PointerGetDatum(movement->account);
	values[COL_AMOUNT] = Int64GetDatum(movement->amount);
	values[COL_CURRENCY] = PointerGetDatum(movement->currency);
	values[COL_POSTED_AT] = TimestampTzGetDatum(movement->posted_at);
	oi_insert_values(OI_REL_LEDGER, values, nulls);
}
