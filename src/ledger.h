/*-------------------------------------------------------------------------
 *
 * ledger.h
 *		The movements of money.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LEDGER_H
#define OI_LEDGER_H

#include "datatype/timestamp.h"

#include "lifecycle.h"

/* one movement; effect is not OI_EFFECT_NONE */
typedef struct OiMovement
{
	text	   *order_key;
	int			version;
	OiEffect	effect;
	text	   *account;
	int64		amount;
	text	   *currency;
	TimestampTz posted_at;
} OiMovement;

extern bool oi_ledger_reserved(const char *account);
extern void oi_ledger_post(const OiMovement *movement);

#endif							/* OI_LEDGER_H */
