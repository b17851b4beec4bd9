/*-------------------------------------------------------------------------
 *
 * claim.h
 *		Claims of idempotency keys.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CLAIM_H
#define OI_CLAIM_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

typedef enum OiClaimOutcome
{
	OI_CLAIM_CLAIMED,
	OI_CLAIM_REPLAYED,
	OI_CLAIM_IN_PROGRESS,
	OI_CLAIM_MISMATCH,
	OI_CLAIM_COMPLETED,
	OI_CLAIM_EXTENDED,
	OI_CLAIM_RELEASED,
	OI_CLAIM_STALE,
	OI_CLAIM_UNKNOWN
} OiClaimOutcome;

/* what the holder of a claim wants of it */
typedef enum OiClaimAction
{
	OI_CLAIM_COMPLETE,
	OI_CLAIM_EXTEND,
	OI_CLAIM_RELEASE
} OiClaimAction;

/* a call's arguments, checked */
typedef struct OiClaimCall
{
	text	   *scope;
	text	   *key;
	Jsonb	   *request;		/* or NULL */
	Interval   *lease;			/* or NULL */
	Jsonb	   *response;		/* or NULL */
	int			attempt;		/* 0: not given */
	OiClaimAction action;		/* of oi_claim_settle */
} OiClaimCall;

/* the answer to claim_key; attempt 0: that and the times are not known */
typedef struct OiClaimAnswer
{
	OiClaimOutcome outcome;
	Jsonb	   *response;		/* or NULL */
	int			attempt;
	TimestampTz claimed_at;
	TimestampTz lease_until;	/* 0: none in force */
} OiClaimAnswer;

extern const char *oi_claim_outcome_name(OiClaimOutcome outcome);
extern void oi_claim_key_work(const OiClaimCall *call, OiClaimAnswer *answer);
extern OiClaimOutcome oi_claim_settle(const OiClaimCall *call);

#endif							/* OI_CLAIM_H */
