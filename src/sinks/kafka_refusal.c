/*-------------------------------------------------------------------------
 *
 * kafka_refusal.c
 *		Which events of a delivery the broker refuses for good.
 *
 * To find one takes a transaction and a handle of its own (kafka_transaction.c), so a
 * crowd of them is not found in the time for one call, which then ends with an error,
 * and that with the sink.  What was found is remembered by the process, for the
 * repetitions of that delivery.  Each of them finds more, until the rest can be
 * delivered.
 *
 * An answer is of the topic and of the server's options that it was given with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_sink.h"
#include "utils/memutils.h"

/* an event that was refused */
typedef struct Refusal
{
	pg_uuid_t	event_id;		/* first: the key */
	const char *topic;
	rd_kafka_resp_err_t answer;
} Refusal;

/* what is known of a delivery */
typedef struct Refusals
{
	OiSinkToken delivery;
	List	   *options;
	HTAB	   *events;
} Refusals;

static MemoryContext context = NULL;
static Refusals *known = NULL;	/* in it */

/*
 * Is this the delivery of which something is known?
 */
static bool
is_known(const OiSinkState *state)
{
	return known != NULL &&
		known->delivery.number == state->token.number &&
		known->delivery.timeline == state->token.timeline &&
		equal(known->options, state->options);
}

/*
 * Forget what is known of another delivery.
 */
static void
begin_delivery(const OiSinkState *state)
{
	HASHCTL		ctl = {.keysize = sizeof(pg_uuid_t),.entrysize = sizeof(Refusal)};
	MemoryContext old;

	known = NULL;
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "order_idempotency refused messages",
										ALLOCSET_SMALL_SIZES);
	MemoryContextReset(context);
	old = MemoryContextSwitchTo(context);
	ctl.hcxt = context;
	known = palloc(sizeof(Refusals));
	known->delivery = state->token;
	known->options = copyObject(state->options);
	known->events = hash_create("order_idempotency refused messages", 64, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);
}

/*
 * An event was refused for good.
 */
void
kafka_remember_refusal(const OiSinkState *state, const OiSinkEvent *event, rd_kafka_resp_err_t answer)
{
	Refusal    *refusal;

	if (!is_known(state))
		begin_delivery(state);
	refusal = hash_search(known->events, &event->event_id, HASH_ENTER, NULL);
	refusal->topic = MemoryContextStrdup(context, event->topic);
	refusal->answer = answer;
}

/*
 * Was an event refused in an earlier call for this delivery?  The answer that it got.
 */
rd_kafka_resp_err_t
kafka_recall_refusal(const OiSinkState *state, const OiSinkEvent *event)
{
	const Refusal *refusal;

	if (!is_known(state))
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	refusal = hash_search(known->events, &event->event_id, HASH_FIND, NULL);
	if (refusal == NULL || strcmp(refusal->topic, event->topic) != 0)
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	return refusal->answer;
}
