/*-------------------------------------------------------------------------
 *
 * rotation_claims.c
 *		What the rotation of claims has of its own: the gate, and leases.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "backoff.h"
#include "claim_store.h"
#include "lease.h"
#include "rotation.h"

/* ms until the gate is tried again: the first time, the most */
#define SHUT_FIRST 100
#define SHUT_MOST 10000

/* how many runs in a row found somebody in the gate who did not leave */
static int	times_shut_out = 0;

/* Is the current generation as old as claims are kept? */
static bool
may_begin(OiRotation *rotation, const OiGeneration *current)
{
	return oi_rotation_is_due(rotation, current->started_at, rotation->retention);
}

/*
 * Were the claims of a generation that has ended kept for long enough, and is
 * no lease of it running any more?
 */
static bool
may_expire(OiRotation *rotation, const OiGeneration *row)
{
	int64		longest;

	if (!oi_rotation_is_due(rotation, row->ended_at, rotation->retention))
		return false;
	longest = oi_lease_longest();
	if (longest >= 0 && row->ended_at + longest <= GetCurrentTimestamp())
		return true;
	return oi_rotation_is_due(rotation, oi_claim_last_lease(row->slot), 0);
}

/* Claims that expired are of no use to anybody. */
static bool
may_empty(OiRotation *rotation, int slot)
{
	return true;
}

/* Shuts the gate, if everybody leaves it soon. */
static bool
shut(OiRotation *rotation)
{
	int			wait;

	if (oi_generation_shut())
	{
		times_shut_out = 0;
		return true;
	}
	wait = oi_backoff(++times_shut_out, SHUT_FIRST, SHUT_MOST, 0);
	rotation->shut_out = true;
	rotation->next = Min(rotation->next,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait));
	return false;
}

const OiRotationStore oi_rotation_claims = {
	.store = OI_STORE_CLAIMS,
	.name = "claims",
	.first = OI_REL_CLAIMS_0,
	.may_begin = may_begin,
	.may_expire = may_expire,
	.may_empty = may_empty,
	.shut = shut,
};
