/*-------------------------------------------------------------------------
 *
 * redis_transaction.c
 *		Parts as transactions of plain XADDs.
 *
 * The script of redis_part.c tries one event after the other, since any may be
 * refused, and then those behind it of its key must not be tried.  That costs Redis more than
 * twice what the XADDs do.  Here none can be refused: it is made sure of before, and a
 * transaction comes about only if nobody has touched books or streams since then.
 *
 *		WATCH		the books and the streams of the part
 *		EVAL		is the session ours, was this delivery not begun, or is all of
 *					it there up to this part, and are the streams below the part's ids?
 *		MULTI
 *					only when all three have been answered as hoped for:
 *		XADD		each event
 *		EVAL		are the streams at the part's last ids?  Then the books, as the script
 *					would write them
 *		EXEC
 *
 * While Redis is at the second half of one part, the next one is made, and its first half
 * sent.  Where something is not as hoped for, the transaction is discarded, and the
 * script does the rest, which knows by the books what is there.  For a while then all
 * goes by the script, as it does where others write to a stream, or remove entries,
 * all the time.
 *
 * What EXEC does it does to the end: if the user lost a right in the meantime, an XADD fails
 * and what is behind it is done.  So the books have the part only if its events are there.
 * A stream's XADDs all succeed or none does, since a right is one to a key, and so its
 * last id tells.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "redis_sink.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* for fewer events the script is quicker, which is one round trip */
#define LEAST_EVENTS 32

/* each stream is asked for */
#define MOST_STREAMS 8

/* deliveries that go by the script after a transaction that did not come about */
#define SCRIPT_FOR 10

/* answers to the first half; and to the second, beside those to XADDs */
#define OPENING 3
#define CLOSING 2

/*
 * KEYS: the books, then streams.  ARGV: session, delivery, the last event of the part
 * before or nothing, the delivery's number, and for each stream the index of the first
 * event.  Answers 1: no event of the part will be refused.
 */
static const char opening[] =
"local was = redis.call('HMGET', KEYS[1], 'session', 'delivery', 'upto', 'refused')\n"
"if was[1] ~= ARGV[1] then return 0 end\n"
"if ARGV[3] == '' then\n"
"  if was[2] == ARGV[2] then return 0 end\n"
"elseif was[2] ~= ARGV[2] or was[3] ~= ARGV[3] or was[4] ~= ',' then return 0 end\n"
"for k = 2, #KEYS do\n"
"  if redis.call('EXISTS', KEYS[k]) == 0 then\n"
"    if redis.call('HGET', KEYS[1], 'last:' .. KEYS[k]) then return 0 end\n"
"  else\n"
"    local info, known = redis.pcall('XINFO', 'STREAM', KEYS[k]), false\n"
"    if info.err then return 0 end\n"
"    for f = 1, #info, 2 do\n"
"      if info[f] == 'last-generated-id' then\n"
"        local number, index = string.match(info[f + 1], '^(%d+)-(%d+)$')\n"
"        number, index, known = tonumber(number), tonumber(index), true\n"
"        if number > tonumber(ARGV[4]) then return 0 end\n"
"        if number == tonumber(ARGV[4]) and index >= tonumber(ARGV[3 + k]) then return 0 end\n"
"      end\n"
"    end\n"
"    if not known then return 0 end\n"
"  end\n"
"end\n"
"return 1\n";

/*
 * KEYS: the books, then streams.  ARGV: delivery, its last event by now, that one's id and
 * position, "1" if this is the delivery's end, and for each stream the id of its last event.
 * Answers 1: that is so, and is in the books.
 */
static const char closing[] =
"for k = 2, #KEYS do\n"
"  local info, last = redis.call('XINFO', 'STREAM', KEYS[k]), nil\n"
"  for f = 1, #info, 2 do\n"
"    if info[f] == 'last-generated-id' then last = info[f + 1] end\n"
"  end\n"
"  if last ~= ARGV[4 + k] then return 0 end\n"
"end\n"
"redis.call('HSET', KEYS[1], 'delivery', ARGV[1], 'upto', ARGV[2], 'refused', ',', 'event', ARGV[3], 'position', ARGV[4])\n"
"for k = 2, #KEYS do redis.call('HSET', KEYS[1], 'last:' .. KEYS[k], ARGV[4 + k]) end\n"
"if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'whole', ARGV[1]) end\n"
"return 1\n";

/* a part on its way */
typedef struct Transaction
{
	RedisPart	part;
	StringInfoData body;		/* all behind MULTI */
} Transaction;

/*
 * Append the id of an event.
 */
static void
append_id(StringInfo out, const RedisPart *part, int i)
{
	redis_append_arg(out, psprintf(INT64_FORMAT "-%d", part->state->token.number, part->events[i].index));
}

/*
 * The first event of a stream, or the last.
 */
static int
event_of_stream(const RedisPart *part, int stream, bool last)
{
	int			i = last ? part->n - 1 : 0;

	while (part->stream[i] != stream)
		i += last ? -1 : 1;
	return i;
}

/*
 * Send the first half of a part; "before" is the event before it in its delivery,
 * or NULL.
 */
static void
send_opening(RedisSink *sink, const RedisPart *part, const OiSinkEvent *before)
{
	StringInfoData out;

	initStringInfo(&out);
	redis_begin_command(&out, 2 + part->nstreams);
	redis_append_arg(&out, "WATCH");
	redis_append_arg(&out, sink->book);
	for (int i = 0; i < part->nstreams; i++)
		redis_append_arg(&out, part->streams[i]);

	redis_begin_command(&out, 8 + 2 * part->nstreams);
	redis_append_arg(&out, "EVAL");
	redis_append_arg(&out, opening);
	redis_append_number(&out, part->nstreams + 1);
	redis_append_arg(&out, sink->book);
	for (int i = 0; i < part->nstreams; i++)
		redis_append_arg(&out, part->streams[i]);
	redis_append_arg(&out, sink->session);
	redis_append_arg(&out, redis_token(part->state));
	if (before == NULL)
		redis_append_arg(&out, "");
	else
		redis_append_number(&out, before->index);
	redis_append_number(&out, part->state->token.number);
	for (int i = 0; i < part->nstreams; i++)
		redis_append_number(&out, part->events[event_of_stream(part, i, false)].index);

	redis_command(&out, 1, "MULTI");
	redis_send(&sink->connection, out.data, out.len, OPENING);
	pfree(out.data);
}

/*
 * Append the call that writes the books.
 */
static void
append_books(StringInfo out, const RedisSink *sink, const RedisPart *part)
{
	const OiSinkEvent *event = &part->events[part->n - 1];

	redis_begin_command(out, 9 + 2 * part->nstreams);
	redis_append_arg(out, "EVAL");
	redis_append_arg(out, closing);
	redis_append_number(out, part->nstreams + 1);
	redis_append_arg(out, sink->book);
	for (int i = 0; i < part->nstreams; i++)
		redis_append_arg(out, part->streams[i]);
	redis_append_arg(out, redis_token(part->state));
	redis_append_number(out, event->index);
	redis_append_arg(out, event->event_id_text);
	redis_append_number(out, event->position);
	redis_append_arg(out, part->last ? "1" : "");
	for (int i = 0; i < part->nstreams; i++)
		append_id(out, part, event_of_stream(part, i, true));
}

/*
 * Make the second half of a part.
 */
static void
make_body(Transaction *transaction, const RedisSink *sink)
{
	const RedisPart *part = &transaction->part;
	StringInfo	out = &transaction->body;
	StringInfoData fields;

	initStringInfo(out);
	initStringInfo(&fields);
	for (int i = 0; i < part->n; i++)
	{
		int			nargs;

		resetStringInfo(&fields);
		nargs = redis_part_append_fields(&fields, part->state, &part->events[i]);
		redis_begin_command(out, nargs + (sink->maxlen[0] != '\0' ? 6 : 3));
		redis_append_arg(out, "XADD");
		redis_append_arg(out, part->streams[part->stream[i]]);
		if (sink->maxlen[0] != '\0')
		{
			redis_append_arg(out, "MAXLEN");
			redis_append_arg(out, "~");
			redis_append_arg(out, sink->maxlen);
		}
		append_id(out, part, i);
		appendBinaryStringInfo(out, fields.data, fields.len);
	}
	append_books(out, sink, part);
	redis_command(out, 1, "EXEC");
	pfree(fields.data);
}

/*
 * Take the answers to the first half.  False: not as hoped for.
 */
static bool
take_opening(RedisSink *sink, TimestampTz deadline)
{
	bool		good = true;

	good &= redis_receive(&sink->connection, &sink->target, deadline)->type == REDIS_REPLY_STATUS;
	good &= redis_receive(&sink->connection, &sink->target, deadline)->integer == 1;
	good &= redis_receive(&sink->connection, &sink->target, deadline)->type == REDIS_REPLY_STATUS;
	return good;
}

/*
 * Take the answers to the second half.  False: its events are not all there, and the books
 * do not have them.
 */
static bool
take_closing(RedisSink *sink, RedisPart *part, TimestampTz deadline)
{
	redisReply *reply;

	for (int i = 0; i < part->n + CLOSING - 1; i++)
		(void) redis_receive(&sink->connection, &sink->target, deadline);
	reply = redis_receive(&sink->connection, &sink->target, deadline);
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != (size_t) part->n + 1)
		return false;
	if (reply->element[part->n]->type != REDIS_REPLY_INTEGER || reply->element[part->n]->integer != 1)
		return false;
	for (int i = 0; i < part->n; i++)
		part->events[i].outcome = OI_SINK_DELIVERED;
	redis_note_part(sink, part);
	return true;
}

/*
 * Leave the transaction that may have been begun.  Where that is not let do, the
 * connection is closed.
 */
static void
discard(RedisSink *sink, TimestampTz deadline)
{
	StringInfoData out;
	redisReply *reply;

	while (sink->connection.waiting > 0)
		(void) redis_receive(&sink->connection, &sink->target, deadline);
	initStringInfo(&out);
	redis_command(&out, 1, "DISCARD");
	redis_send(&sink->connection, out.data, out.len, 1);
	pfree(out.data);
	reply = redis_receive(&sink->connection, &sink->target, deadline);
	if (reply->type == REDIS_REPLY_ERROR && strstr(reply->str, "without MULTI") == NULL)
		redis_close(&sink->connection);
}

/*
 * Cut off the next part and send its first half.  False: it is not one for this.
 */
static bool
open_transaction(Transaction *transaction, RedisSink *sink, OiSinkState *state,
				 OiSinkEvent *events, int from, int n)
{
	RedisPart  *part = &transaction->part;

	memset(transaction, 0, sizeof(*transaction));
	redis_part_cut(part, state, events + from, n - from, sink->max_events);
	if (part->nstreams > MOST_STREAMS)
		return false;
	for (int i = 0; i < part->n; i++)
		if (part->events[i].reason != NULL)
			return false;
	send_opening(sink, part, from > 0 ? &events[from - 1] : NULL);
	return true;
}

/*
 * Are transactions worth a try?
 */
static bool
is_worth_it(RedisSink *sink, const OiSinkState *state, int n)
{
	if (n < LEAST_EVENTS || state->repeated || sink->wait_replicas != NULL)
		return false;
	if (sink->script_for == 0)
		return true;
	sink->script_for--;
	return false;
}

/*
 * Deliver events by transactions, as far as that goes.  Returns how many of the
 * first are there.
 */
int
redis_deliver_transactions(RedisSink *sink, OiSinkState *state, OiSinkEvent *events, int n,
						   TimestampTz deadline)
{
	Transaction this;
	Transaction next = {0};
	int			done = 0;
	bool		good = true;
	bool		open;

	if (!is_worth_it(sink, state, n))
		return 0;
	if (!redis_is_idle(&sink->connection))
		redis_connect(sink, deadline);
	open = open_transaction(&this, sink, state, events, 0, n);
	if (open)
		make_body(&this, sink);
	while (open && good)
	{
		int			upto = done + this.part.n;

		good = take_opening(sink, deadline);
		if (!good)
			break;
		redis_send(&sink->connection, this.body.data, this.body.len, this.part.n + CLOSING);
		pfree(this.body.data);
		open = upto < n && GetCurrentTimestamp() < deadline &&
			open_transaction(&next, sink, state, events, upto, n);
		redis_push(&sink->connection, &sink->target);
		if (open)
			make_body(&next, sink);
		good = take_closing(sink, &this.part, deadline);
		if (good)
			done = upto;
		this = next;
	}
	if (!good)
	{
		sink->script_for = SCRIPT_FOR;
		discard(sink, deadline);
	}
	return done;
}
