/*-------------------------------------------------------------------------
 *
 * judge.c
 *		What becomes of the events of a delivery.
 *
 * The sink has said what became of each (order_sink.h).  Here that is turned
 * into fates, without a look at any table:
 *
 *		delivered	is done
 *		rejected	dead
 *		retry		parked, or dead where its attempts are used up
 *
 * and of a key with an event that failed, none of the later ones is done, so that
 * its order is kept whatever the sink says of them.
 *
 * A retry without a reason means that the sink did not come to the event in
 * the time it had.  It stays in the batch, and so do those of its key behind
 * it.  The first of a delivery was tried in any case, so each delivery gets
 * somewhere.  Of a numbered delivery such events keep their numbers: what became
 * of them has to be found out.
 *
 * An event that cannot be handed to any sink is rejected by the worker itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"
#include "common/pg_prng.h"
#include "judge.h"
#include "utils/memutils.h"

/* a key of which an event was not delivered */
typedef struct Blocked
{
	char		key[OI_HELD_KEY_SIZE];	/* first */
	bool		failed;			/* else it was not tried */
} Blocked;

/*
 * A table of blocked keys, in the current context.
 */
static HTAB *
make_table(void)
{
	HASHCTL		ctl = {.keysize = OI_HELD_KEY_SIZE,.entrysize = sizeof(Blocked)};

	ctl.hcxt = CurrentMemoryContext;
	return hash_create("order_idempotency blocked keys", 64, &ctl,
					   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/*
 * Events of keys that are held have to wait, too.
 */
void
oi_judge_set_aside(OiBatch *batch, const OiHeld *held)
{
	if (batch->failed)
		return;
	for (int i = 0; i < batch->n; i++)
		if (batch->info[i].fate == OI_FATE_OPEN &&
			oi_held_has(held, batch->info[i].key))
			batch->info[i].fate = OI_FATE_WAITING;
}

/*
 * Is there an open event of the same key before this one?
 */
static bool
is_behind_open(const OiBatch *batch, int which)
{
	for (int i = 0; i < which; i++)
		if (batch->info[i].fate == OI_FATE_OPEN &&
			strcmp(batch->info[i].key, batch->info[which].key) == 0)
			return true;
	return false;
}

/*
 * Add an event of the batch to a delivery.
 */
static void
choose(OiDelivery *delivery, const OiBatch *batch, int which)
{
	delivery->events[delivery->n] = batch->events[which];
	delivery->events[delivery->n].index = delivery->n;
	delivery->which[delivery->n++] = which;
}

/*
 * An empty delivery with room for so many events.
 */
static OiDelivery *
make_delivery(int room)
{
	OiDelivery *delivery = palloc0(sizeof(OiDelivery));

	delivery->events = palloc(sizeof(OiSinkEvent) * (room + 1));
	delivery->which = palloc(sizeof(int) * (room + 1));
	return delivery;
}

/*
 * The open events of a batch that cannot be handed to any sink, as rejected; NULL if
 * there are none.
 */
OiDelivery *
oi_judge_choose_unfit(const OiBatch *batch)
{
	OiDelivery *delivery = NULL;

	for (int i = 0; i < batch->n; i++)
	{
		if (batch->info[i].fate != OI_FATE_OPEN || batch->info[i].unfit == NULL)
			continue;
		if (delivery == NULL)
			delivery = make_delivery(batch->n);
		choose(delivery, batch, i);
		delivery->events[delivery->n - 1].outcome = OI_SINK_REJECTED;
		delivery->events[delivery->n - 1].reason = batch->info[i].unfit;
		delivery->unfit = true;
	}
	return delivery;
}

/*
 * What to hand to the sink: the open events of a batch, at most "limit" (0: all).
 * A single one is taken where the batch's turn is, so that another one follows
 * if it fails and cannot be parked.
 */
OiDelivery *
oi_judge_choose(OiBatch *batch, int limit)
{
	int			most = limit > 0 ? Min(limit, batch->n) : batch->n;
	OiDelivery *delivery = make_delivery(most);

	for (int i = 0; i < batch->n && delivery->n < most; i++)
	{
		int			which = most == 1 ? (batch->turn + i) % batch->n : i;

		if (batch->info[which].fate == OI_FATE_OPEN &&
			(most > 1 || !is_behind_open(batch, which)))
			choose(delivery, batch, which);
	}
	if (delivery->n == 1)
		batch->turn = (delivery->which[0] + 1) % batch->n;

	return delivery;
}

/*
 * Is there anything to be handed to the sink?
 */
bool
oi_judge_has_open(const OiBatch *batch)
{
	for (int i = 0; i < batch->n; i++)
		if (batch->info[i].fate == OI_FATE_OPEN)
			return true;
	return false;
}

/*
 * A delivery of one event failed as a whole: the event did.
 */
void
oi_judge_failure(OiDelivery *delivery, const char *error)
{
	delivery->events[0].outcome = OI_SINK_RETRY;
	delivery->events[0].reason = error;
	delivery->events[0].retry_after = 0;
}

/*
 * An event failed: park it, or give it up.  A probe does not use up attempts:
 * where the receiver is down, that is not the event's fault.
 */
static void
fail(const OiSubscription *sub, const OiSinkEvent *event, OiEventInfo *info,
	 bool probe, TimestampTz now)
{
	int			wait;

	if (!probe || info->attempts == 0)
		info->attempts++;
	info->reason = event->reason ? event->reason :
		"sink did not say what became of the event";
	if (event->outcome == OI_SINK_REJECTED ||
		(!probe && info->attempts >= sub->max_attempts))
	{
		info->fate = OI_FATE_DEAD;
		return;
	}
	wait = oi_backoff(info->attempts, sub->backoff_min, sub->backoff_max,
					  pg_prng_double(&pg_global_prng_state));
	info->fate = OI_FATE_PARKED;
	info->next_at = now + (int64) Max(wait, event->retry_after) * 1000;
}

/*
 * Count an event that failed.
 */
static void
count_failure(OiVerdict *verdict, const OiSinkEvent *event, const OiEventInfo *info)
{
	verdict->keys++;
	if (info->fate == OI_FATE_DEAD)
		verdict->dead++;
	else
		verdict->parked++;
	verdict->retry_after = Max(verdict->retry_after, event->retry_after);
	if (verdict->reason == NULL)
		verdict->reason = info->reason;
}

/*
 * An event was not sent, since one of its key before it failed: it waits.  One that
 * had failed before waits in its table as it is; it loses its number, for it must
 * not be sent before the other one.
 */
static void
wait_behind(const OiBatch *batch, OiEventInfo *info)
{
	if (batch->failed)
		info->index = OI_NO_INDEX;
	else
		info->fate = OI_FATE_WAITING;
}

/*
 * Give each event of a delivery its fate.
 */
OiVerdict
oi_judge(const OiSubscription *sub, OiBatch *batch, const OiDelivery *delivery,
		 const OiHeld *held, bool probe, TimestampTz now)
{
	OiVerdict	verdict = {0};
	HTAB	   *blocked = NULL;

	for (int i = 0; i < delivery->n; i++)
	{
		const OiSinkEvent *event = &delivery->events[i];
		OiEventInfo *info = &batch->info[delivery->which[i]];
		Blocked    *before = blocked == NULL ? NULL :
		hash_search(blocked, info->key, HASH_FIND, NULL);

		if (before != NULL)
		{
			if (before->failed)
				wait_behind(batch, info);
			continue;
		}
		if (event->outcome == OI_SINK_DELIVERED)
		{
			info->fate = OI_FATE_DELIVERED;
			verdict.delivered++;
			continue;
		}

		if (blocked == NULL)
			blocked = make_table();
		before = hash_search(blocked, info->key, HASH_ENTER, NULL);
		before->failed = event->outcome == OI_SINK_REJECTED || event->reason != NULL ||
			(i == 0 && info->index == OI_NO_INDEX);
		if (before->failed)
		{
			fail(sub, event, info, probe, now);
			count_failure(&verdict, event, info);
			verdict.new_keys += !oi_held_has(held, info->key);
		}
	}

	return verdict;
}

/*
 * Forget the fates of a delivery, but for what was delivered: those that failed
 * are not parked, and those behind them do not wait.
 */
void
oi_judge_reopen(OiBatch *batch, const OiDelivery *delivery)
{
	for (int i = 0; i < delivery->n; i++)
	{
		OiEventInfo *info = &batch->info[delivery->which[i]];

		if (info->fate != OI_FATE_DELIVERED && info->fate != OI_FATE_OPEN)
		{
			info->attempts = 0;
			info->fate = OI_FATE_OPEN;
			info->index = OI_NO_INDEX;
		}
	}
}

/*
 * Dead events are told of in the log, once for each delivery.
 */
void
oi_judge_report_dead(const OiSubscription *sub, const OiVerdict *verdict)
{
	if (verdict->dead > 0)
		ereport(WARNING,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg_plural("%d event of subscription \"%s\" became a dead letter: %s",
							   "%d events of subscription \"%s\" became dead letters, the first: %s",
							   verdict->dead, verdict->dead, sub->name,
							   verdict->reason),
				 errhint("See view order_idempotency.dead_letters; use redrive() or discard().")));
}
