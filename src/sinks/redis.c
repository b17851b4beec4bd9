/*-------------------------------------------------------------------------
 *
 * redis.c
 *		The sink "redis": one entry of a Redis stream for each event.
 *
 * An event goes to the stream of its topic, under the id NUMBER-INDEX, where
 * NUMBER is that of its delivery and INDEX its own in that.  Both are the same
 * on every attempt, and Redis takes no id that is not greater than the last one of
 * the stream: so an event is there once.  redis_part.c has how it is told
 * whether it is, and redis_book.c what happens if Redis loses what it had.
 *
 * Of events whose answer did not come nothing is known.  The whole call is an
 * ERROR then; they come again in the same delivery, on another connection, and the
 * old one is shut out before anything is asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "redis_sink.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

/* defaults of server options */
#define DEFAULT_PORT 6379
#define DEFAULT_TIMEOUT 10000
#define DEFAULT_MAX_EVENTS 500
#define DEFAULT_WAIT_TIMEOUT "1000"

/*
 * Callback: is everything there?
 */
static const char *
redis_check_configured(OiSinkState *state)
{
	if (oi_sink_option(state->options, "host") == NULL)
		return "option \"host\" is missing";
	return NULL;
}

/*
 * An integer option, or its default; the validator has checked it.
 */
static int
int_option(const OiSinkState *state, const char *name, int otherwise)
{
	const char *value = oi_sink_option(state->options, name);

	return value ? pg_strtoint32(value) : otherwise;
}

/*
 * A copy of an option's value, or of a default; NULL is copied as it is.
 */
static const char *
text_option(List *options, const char *name, const char *otherwise)
{
	const char *value = oi_sink_option(options, name);

	if (value == NULL)
		value = otherwise;
	return value ? pstrdup(value) : NULL;
}

/*
 * Take over the options of server and user mapping.
 */
static void
read_options(RedisSink *sink, const OiSinkState *state)
{
	const char *allowed = oi_sink_option(state->options, "allow_addresses");
	RedisTarget *target = &sink->target;

	target->host = text_option(state->options, "host", NULL);
	target->port = int_option(state, "port", DEFAULT_PORT);
	target->timeout = int_option(state, "timeout", DEFAULT_TIMEOUT);
	target->allowed = oi_networks_parse(allowed);
	sink->database = text_option(state->options, "database", NULL);
	sink->maxlen = text_option(state->options, "maxlen", "");
	sink->max_events = int_option(state, "max_in_flight", DEFAULT_MAX_EVENTS);
	sink->wait_replicas = text_option(state->options, "wait_replicas", NULL);
	sink->wait_timeout = text_option(state->options, "wait_timeout", DEFAULT_WAIT_TIMEOUT);
	sink->username = text_option(state->user_options, "user", NULL);
	sink->password = text_option(state->user_options, "password", NULL);
}

/*
 * Callback: nothing is connected before the first event.  What the database has settled
 * Redis has told of, to this process or to one before it.
 */
static void
redis_startup(OiSinkState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	RedisSink  *sink = palloc0(sizeof(RedisSink));

	read_options(sink, state);
	sink->book = psprintf("order_idempotency:%s", state->identity);
	sink->mark.upto = -1;
	sink->mark.whole = state->settled;
	state->private_data = sink;
	MemoryContextSwitchTo(old);
}

/*
 * Wait until enough replicas have what was written.
 */
static void
check_replicas(RedisSink *sink, TimestampTz deadline)
{
	redisReply *reply = redis_receive(&sink->connection, &sink->target, deadline);

	if (reply->type == REDIS_REPLY_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("Redis refused WAIT: %s", reply->str)));
	if (reply->integer < pg_strtoint32(sink->wait_replicas))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("%lld of %s replicas of Redis have the events",
						reply->integer, sink->wait_replicas)));
}

/*
 * Send a part, and wait for replicas behind it.
 */
static void
send_part(RedisSink *sink, const RedisPart *part)
{
	StringInfoData out;

	initStringInfo(&out);
	redis_part_append(part, sink, &out);
	if (sink->wait_replicas != NULL)
		redis_command(&out, 3, "WAIT", sink->wait_replicas, sink->wait_timeout);
	redis_send(&sink->connection, out.data, out.len, sink->wait_replicas != NULL ? 2 : 1);
	pfree(out.data);
}

/*
 * Deal with the answer to a part.  False: somebody else has connected for the
 * subscription, or the books are gone.
 */
static bool
take_answer(RedisSink *sink, RedisPart *part, TimestampTz deadline)
{
	redisReply *reply = redis_receive(&sink->connection, &sink->target, deadline);
	const char *what = reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 ?
	reply->element[0]->str : NULL;

	if (reply->type == REDIS_REPLY_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("Redis refused the events: %s", reply->str)));
	if (what != NULL && strcmp(what, "fenced") == 0)
		return false;
	if (what != NULL && strcmp(what, "error") == 0 && reply->elements == 2 &&
		reply->element[1]->str != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("Redis refused the events: %s", reply->element[1]->str)));
	if (what != NULL && strcmp(what, "gone") == 0 && reply->elements == 3 &&
		reply->element[1]->str != NULL && reply->element[2]->str != NULL)
	{
		char	   *stream = pstrdup(reply->element[1]->str);
		char	   *id = pstrdup(reply->element[2]->str);

		if (sink->wait_replicas != NULL)
			(void) redis_receive(&sink->connection, &sink->target, deadline);
		redis_note_gone(sink, stream, id, deadline);
	}
	if (what == NULL || strcmp(what, "ok") != 0 || !redis_part_read(part, reply))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("Redis gave an answer that cannot be understood")));
	return true;
}

/*
 * All of a part is there, or known not to be.
 */
void
redis_note_part(RedisSink *sink, const RedisPart *part)
{
	sink->mark.number = part->state->token.number;
	sink->mark.upto = part->events[part->n - 1].index;
	if (part->last)
		sink->mark.whole = sink->mark.number;
}

/*
 * Deliver a part, on a connection that may have to be made first.
 */
static void
deliver_part(RedisSink *sink, RedisPart *part, TimestampTz deadline)
{
	for (int attempt = 0;; attempt++)
	{
		if (!redis_is_idle(&sink->connection))
			redis_connect(sink, deadline);
		send_part(sink, part);
		if (take_answer(sink, part, deadline))
			break;
		redis_close(&sink->connection);
		if (attempt > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("another connection to Redis delivers for this subscription")));
	}
	if (sink->wait_replicas != NULL)
		check_replicas(sink, deadline);
	redis_note_part(sink, part);
}

/*
 * Callback: send the events, in parts, by transactions as far as that goes, and by the
 * script where it does not.
 */
static void
redis_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	RedisSink  *sink = state->private_data;
	RedisPart	part = {0};
	int			done;

	sink->making = state->token;
	redis_part_reject(events, n);
	done = redis_deliver_transactions(sink, state, events, n, deadline);
	for (; done < n && GetCurrentTimestamp() < deadline; done += part.n)
	{
		redis_part_cut(&part, state, events + done, n - done, sink->max_events);
		deliver_part(sink, &part, deadline);
	}
}

/*
 * Callback: close the connection.
 */
static void
redis_shutdown(OiSinkState *state)
{
	RedisSink  *sink = state->private_data;

	if (sink != NULL)
		redis_close(&sink->connection);
}

static const OiSinkCallbacks redis_callbacks = {
	.magic = OI_SINK_MAGIC,
	.check_configured = redis_check_configured,
	.startup = redis_startup,
	.deliver = redis_deliver,
	.shutdown = redis_shutdown,
	.numbered = true
};

/*
 * What the loader looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &redis_callbacks;
}
