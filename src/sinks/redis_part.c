/*-------------------------------------------------------------------------
 *
 * redis_part.c
 *		What goes to Redis in one step, and what it answers.
 *
 * A step is a call of a script, which Redis runs as a whole: nothing of another
 * client's comes between, and it is in the append-only file and goes to replicas
 * as one transaction.  For each event it tries XADD under the event's own id, and
 * writes into the books how far it came.  The books are a hash beside the streams:
 *
 *	session		of the connection that may write; others do nothing
 *	delivery	the last one of which something was written
 *	upto		its last event by now
 *	refused		those of its events that were refused, and so never will be there
 *	whole		the last delivery that is there as a whole
 *	last:NAME	the id of the last event in that stream
 *	event, position, at		of the last event, for people
 *
 * An event is there if XADD took it; if the books say that this delivery had it
 * (the entry itself may have been removed by a consumer, or trimmed, since then);
 * or if XADD finds its id too small and the entry under that id has the event's
 * id.  Else it is not, and never will be under that number: what is written in the
 * books is held to in a repeat.  Behind a refused event none of its key is
 * tried.
 *
 * What Redis as a whole cannot do (no memory, a replica, no disk) ends the
 * script; the events before are in the books.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "redis_sink.h"
#include "utils/builtins.h"

/* bytes of events in one step, but for a larger one */
#define MOST_BYTES (1024 * 1024)

/* what the script says of an event */
#define LETTERS "abdnowx"

/* what an event takes beside its payload, and each of its headers, roughly */
#define EVENT_BYTES 600
#define HEADER_BYTES 64

/* The script hands all fields of an event to XADD at once, as Lua does with fewer than
 * 8000 values.  The attributes take some of them, and a header two. */
#define MOST_HEADERS 3900

#define BEHIND "an event of its key before it was not delivered"

/*
 * KEYS: the books, then streams.  ARGV: session, delivery, "1" if this is its end,
 * maxlen or nothing, the last position, how many events; and for each event
 * the number of its stream, its index, its id in the stream, how many arguments
 * follow, and those: field "id" first, "subject", which is the key, second.  None: it is
 * not to be tried, or one of its key was refused in an earlier step.
 *
 * Answers: "fenced"; "gone", stream, id; "error", text; or "ok", a letter for
 * each event, and for those that are n, o or w a text.
 */
static const char script[] =
"local book, stop = KEYS[1], nil\n"
"local was = redis.call('HMGET', book, 'session', 'delivery', 'upto', 'refused')\n"
"if was[1] ~= ARGV[1] then return {'fenced'} end\n"
"local newest, changed = {}, {}\n"
"for k = 2, #KEYS do\n"
"  local id = redis.call('HGET', book, 'last:' .. KEYS[k])\n"
"  if id and redis.call('EXISTS', KEYS[k]) == 0 then return {'gone', KEYS[k], id} end\n"
"  newest[k] = id\n"
"end\n"
"local known, refused = -1, ','\n"
"if was[2] == ARGV[2] then known, refused = tonumber(was[3]), was[4] end\n"
"local upto, event, barred, codes, answer = known, nil, {}, {}, {'ok', ''}\n"
"local at = 7\n"
"for i = 1, tonumber(ARGV[6]) do\n"
"  local k, index, id = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]\n"
"  local first, last = at + 4, at + 3 + tonumber(ARGV[at + 3])\n"
"  local key, code = last > first and ARGV[first + 3], nil\n"
"  at = last + 1\n"
"  if not key or barred[key] then code = 'b'\n"
"  elseif index <= known then\n"
"    code = string.find(refused, ',' .. index .. ',', 1, true) and 'x' or 'd'\n"
"  else\n"
"    local r\n"
"    if ARGV[4] == '' then r = redis.pcall('XADD', KEYS[k], id, unpack(ARGV, first, last))\n"
"    else r = redis.pcall('XADD', KEYS[k], 'MAXLEN', '~', ARGV[4], id, unpack(ARGV, first, last)) end\n"
"    local err = type(r) == 'table' and r.err\n"
"    if not err then\n"
"      code, newest[k], changed[k] = 'a', id, true\n"
"    elseif string.find(err, 'equal or smaller', 1, true) then\n"
"      local found = redis.call('XRANGE', KEYS[k], id, id)[1]\n"
"      code = found and 'o' or 'n'\n"
"      for f = 1, found and #found[2] or 0, 2 do\n"
"        if found[2][f] == 'id' and found[2][f + 1] == ARGV[first + 1] then code = 'd' end\n"
"      end\n"
"      if code ~= 'd' then\n"
"        local info = redis.call('XINFO', 'STREAM', KEYS[k])\n"
"        for f = 1, #info, 2 do\n"
"          if info[f] == 'last-generated-id' then\n"
"            answer[#answer + 1] = info[f + 1] .. (info[f + 1] == newest[k] and ' own' or ' foreign')\n"
"          end\n"
"        end\n"
"      end\n"
"    elseif string.find(err, '^ERR') or string.find(err, '^WRONGTYPE') then\n"
"      code, answer[#answer + 1] = 'w', err\n"
"    else stop = err break end\n"
"  end\n"
"  codes[i] = code\n"
"  if index > known then upto = index end\n"
"  if code == 'a' or code == 'd' then event = ARGV[first + 1]\n"
"  else\n"
"    if key then barred[key] = true end\n"
"    if code ~= 'x' then refused = refused .. index .. ',' end\n"
"  end\n"
"end\n"
"if stop and #codes == 0 then return {'error', stop} end\n"
"redis.call('HSET', book, 'delivery', ARGV[2], 'upto', upto, 'refused', refused)\n"
"if event then redis.call('HSET', book, 'event', event, 'position', ARGV[5]) end\n"
"for k in pairs(changed) do redis.call('HSET', book, 'last:' .. KEYS[k], newest[k]) end\n"
"if stop then return {'error', stop} end\n"
"if ARGV[3] == '1' then redis.call('HSET', book, 'whole', ARGV[2]) end\n"
"answer[2] = table.concat(codes)\n"
"return answer\n";

/*
 * The stream that an event goes to.
 */
static const char *
stream_of(const OiSinkState *state, const OiSinkEvent *event)
{
	const char *topic = event->topic ? event->topic : state->topic;

	return topic != NULL && topic[0] != '\0' ? topic : state->subscription;
}

/*
 * The number of a stream among those of a part, which may be a new one.
 */
static int
number_of(RedisPart *part, const char *stream, int guess)
{
	if (guess < part->nstreams && strcmp(part->streams[guess], stream) == 0)
		return guess;
	for (int i = 0; i < part->nstreams; i++)
		if (strcmp(part->streams[i], stream) == 0)
			return i;
	part->streams[part->nstreams] = stream;
	return part->nstreams++;
}

/*
 * Cut off a part of events: so many, or as many bytes.
 */
void
redis_part_cut(RedisPart *part, OiSinkState *state, OiSinkEvent *events, int n, int most)
{
	int64		bytes = 0;
	int			stream = 0;

	part->state = state;
	part->events = events;
	part->nstreams = 0;
	part->streams = palloc(sizeof(char *) * Min(n, most));
	part->stream = palloc(sizeof(int) * Min(n, most));
	for (part->n = 0; part->n < n && part->n < most; part->n++)
	{
		const OiSinkEvent *event = &events[part->n];

		bytes += EVENT_BYTES + event->nheaders * HEADER_BYTES + (event->payload ? strlen(event->payload) : 0);
		if (part->n > 0 && bytes > MOST_BYTES)
			break;
		part->stream[part->n] = stream = number_of(part, stream_of(state, event), stream);
	}
	part->last = part->n == n;
}

/*
 * Append an event's fields: its attributes as CloudEvent, and the payload.
 */
int
redis_part_append_fields(StringInfo out, const OiSinkState *state, const OiSinkEvent *event)
{
	int			nattributes;
	int			nargs = 4;
	OiSinkHeader *attributes = oi_cloudevent_attributes(state, event, &nattributes);

	redis_append_arg(out, "id");
	redis_append_arg(out, event->event_id_text);
	redis_append_arg(out, "subject");
	redis_append_arg(out, event->key);
	for (int i = 0; i < nattributes; i++)
	{
		if (strcmp(attributes[i].name, "id") == 0 ||
			strcmp(attributes[i].name, "subject") == 0)
			continue;
		redis_append_arg(out, attributes[i].name);
		redis_append_arg(out, attributes[i].value);
		nargs += 2;
	}
	if (event->payload != NULL)
	{
		redis_append_arg(out, "data");
		redis_append_arg(out, event->payload);
		nargs += 2;
	}
	pfree(attributes);
	return nargs;
}

/*
 * Was an event of a key refused in this delivery?  Keys are told apart by a hash: two
 * that share it only wait for each other.
 */
static bool
is_barred(const RedisPart *part, const char *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key, strlen(key), 0);

	return part->barred != NULL && hash_search(part->barred, &hash, HASH_FIND, NULL) != NULL;
}

/*
 * From here on none of its key is sent in this delivery.
 */
static void
bar(RedisPart *part, const char *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key, strlen(key), 0);

	if (part->barred == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(uint64)};

		ctl.hcxt = CurrentMemoryContext;
		part->barred = hash_create("order_idempotency redis keys", 64, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(part->barred, &hash, HASH_ENTER, NULL);
}

/*
 * Reject the events that the script could not do, and would fail of as a whole.  Those
 * behind them of their keys wait.
 */
void
redis_part_reject(OiSinkEvent *events, int n)
{
	RedisPart	all = {0};

	for (int i = 0; i < n; i++)
	{
		if (events[i].nheaders > MOST_HEADERS)
		{
			events[i].outcome = OI_SINK_REJECTED;
			events[i].reason = psprintf("event has more than %d headers", MOST_HEADERS);
			bar(&all, events[i].key);
		}
		else if (is_barred(&all, events[i].key))
			events[i].reason = BEHIND;
	}
}

/*
 * Append an event; returns how many arguments that was.
 */
static int
append_event(StringInfo out, const RedisPart *part, int i, StringInfo scratch)
{
	const OiSinkEvent *event = &part->events[i];
	char		id[2 * MAXINT8LEN + 2];
	int			nargs = 0;

	resetStringInfo(scratch);
	if (event->reason == NULL && !is_barred(part, event->key))
		nargs = redis_part_append_fields(scratch, part->state, event);
	snprintf(id, sizeof(id), INT64_FORMAT "-%d", part->state->token.number, event->index);
	redis_append_number(out, part->stream[i] + 2);
	redis_append_number(out, event->index);
	redis_append_arg(out, id);
	redis_append_number(out, nargs);
	appendBinaryStringInfo(out, scratch->data, scratch->len);
	return nargs + 4;
}

/*
 * Append the call of the script for a part.
 */
void
redis_part_append(const RedisPart *part, const RedisSink *sink, StringInfo out)
{
	StringInfoData args;
	StringInfoData scratch;
	int			nargs = 10 + part->nstreams;

	initStringInfo(&args);
	initStringInfo(&scratch);
	redis_append_arg(&args, sink->session);
	redis_append_arg(&args, redis_token(part->state));
	redis_append_arg(&args, part->last ? "1" : "");
	redis_append_arg(&args, sink->maxlen);
	redis_append_number(&args, part->events[part->n - 1].position);
	redis_append_number(&args, part->n);
	for (int i = 0; i < part->n; i++)
		nargs += append_event(&args, part, i, &scratch);

	redis_begin_command(out, nargs);
	redis_append_arg(out, "EVAL");
	redis_append_arg(out, script);
	redis_append_number(out, part->nstreams + 1);
	redis_append_arg(out, sink->book);
	for (int i = 0; i < part->nstreams; i++)
		redis_append_arg(out, part->streams[i]);
	appendBinaryStringInfo(out, args.data, args.len);
	pfree(args.data);
	pfree(scratch.data);
}

/*
 * Why an event is not there and never will be under its number.
 */
static char *
why_not(const RedisPart *part, int i, char code, const char *text)
{
	const char *stream = part->streams[part->stream[i]];
	bool		foreign = strstr(text, " foreign") != NULL;
	int			len = strcspn(text, " ");

	switch (code)
	{
		case 'b':
			return pstrdup(BEHIND);
		case 'x':
			return pstrdup("it was refused in an attempt before");
		case 'w':
			return psprintf("stream \"%s\": %s", stream, text);
		case 'o':
			return psprintf("stream \"%s\" has another event under the same number", stream);
		default:
			return psprintf(foreign ? "stream \"%s\" has another writer, which is at %.*s already" :
							"stream \"%s\" is at %.*s already", stream, len, text);
	}
}

/*
 * The text in the answer, or an empty one: what is not the script's may be anything.
 */
static const char *
text_at(const redisReply * reply, size_t i)
{
	if (i >= reply->elements || reply->element[i]->str == NULL)
		return "";
	return reply->element[i]->str;
}

/*
 * Fill in the outcomes of a part from the answer to it.  False: it is none.
 */
bool
redis_part_read(RedisPart *part, const redisReply * reply)
{
	const char *codes;
	size_t		detail = 2;

	if (reply->elements < 2 || reply->element[1]->type != REDIS_REPLY_STRING ||
		reply->element[1]->len != (size_t) part->n)
		return false;
	codes = reply->element[1]->str;
	if (strspn(codes, LETTERS) != (size_t) part->n)
		return false;
	for (int i = 0; i < part->n; i++)
	{
		OiSinkEvent *event = &part->events[i];
		bool		explained = strchr("now", codes[i]) != NULL;

		if (strchr("ad", codes[i]) != NULL)
			event->outcome = OI_SINK_DELIVERED;
		else
		{
			if (event->reason == NULL)
				event->reason = why_not(part, i, codes[i], explained ? text_at(reply, detail) : "");
			bar(part, event->key);
		}
		detail += explained;
	}
	return true;
}
