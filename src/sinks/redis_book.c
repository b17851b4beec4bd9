/*-------------------------------------------------------------------------
 *
 * redis_book.c
 *		Connecting to Redis, and finding out whether it still has what it had.
 *
 * Whoever connects writes a random session into the books (see redis_part.c).  From
 * then on whatever an earlier connection has under way does nothing, however late it
 * arrives: so what the script says to the new one stays true.
 *
 * Then the books are compared with what Redis has told before, and, when the sink
 * was just started, with what the database has recorded.  If they are behind, or
 * gone, then Redis was emptied, or restarted from an older state, or a replica
 * took over that had not got everything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "redis_sink.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* the fields of the books that are read */
enum
{
	FIELD_DELIVERY,
	FIELD_UPTO,
	FIELD_WHOLE,
	FIELD_EVENT,
	FIELD_POSITION,
	NFIELDS
};

/* what is said to Redis first */
typedef struct Step
{
	const char *name;
	bool		optional;		/* goes on where it is not permitted */
	bool		secret;			/* what was said is not to be repeated */
} Step;

/* what the codes that refusals begin with are made of */
#define CODE_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

/*
 * A delivery as the books have it.
 */
char *
redis_token(const OiSinkState *state)
{
	return psprintf(INT64_FORMAT "/%u", state->token.number, state->token.timeline);
}

/*
 * A random name for a connection.
 */
static void
make_session(RedisSink *sink)
{
	unsigned char bytes[16];

	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	for (int i = 0; i < (int) sizeof(bytes); i++)
		snprintf(&sink->session[2 * i], 3, "%02x", bytes[i]);
}

/*
 * The answer to a step; a refusal is an error, if the step has to be.  Redis repeats the
 * arguments of a command that it does not know, up to 128 bytes of them.  A password
 * that is cut off there is not found by who hides it (sink_outcome.c), so of an answer
 * to one only the code is shown.
 */
static redisReply *
answer_to(RedisSink *sink, const Step *step, TimestampTz deadline)
{
	redisReply *reply = redis_receive(&sink->connection, &sink->target, deadline);

	if (reply->type == REDIS_REPLY_ERROR && !step->optional)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("Redis refused %s: %.*s", step->name,
						(int) (step->secret ? strspn(reply->str, CODE_LETTERS) : reply->len), reply->str)));
	return reply;
}

/*
 * Have the beginning of a connection sent, and get the answers to it that nobody
 * looks at.
 */
static void
log_in(RedisSink *sink, TimestampTz deadline)
{
	StringInfoData out;
	Step		steps[3];
	int			n = 0;

	initStringInfo(&out);
	if (sink->password != NULL && sink->username != NULL)
		redis_command(&out, 3, "AUTH", sink->username, sink->password);
	else if (sink->password != NULL)
		redis_command(&out, 2, "AUTH", sink->password);
	if (sink->password != NULL)
		steps[n++] = (Step)
	{
		"AUTH", false, true
	};
	if (sink->database != NULL)
	{
		redis_command(&out, 2, "SELECT", sink->database);
		steps[n++] = (Step)
		{
			"SELECT", false, false
		};
	}
	redis_command(&out, 3, "CLIENT", "SETNAME", "order_idempotency");
	steps[n++] = (Step)
	{
		"CLIENT", true, false
	};
	redis_send(&sink->connection, out.data, out.len, n);
	for (int i = 0; i < n; i++)
		(void) answer_to(sink, &steps[i], deadline);
	pfree(out.data);
}

/*
 * The number of a delivery as the books have it; 0: none.
 */
static int64
number_in(const redisReply * field)
{
	return field->type == REDIS_REPLY_STRING ? strtoi64(field->str, NULL, 10) : 0;
}

/*
 * Does one mark come before another, in one way or the other?
 */
static bool
is_behind(const RedisMark *mark, const RedisMark *other)
{
	return mark->number < other->number || mark->whole < other->whole ||
		(mark->number == other->number && mark->upto < other->upto);
}

/*
 * Say that events are gone, once: what Redis has now is what it is compared with
 * from then on.
 */
static void
report_loss(RedisSink *sink, const RedisMark *has, redisReply * const *fields)
{
	const char *subject = fields[FIELD_EVENT]->type == REDIS_REPLY_STRING ?
	psprintf("the last event that it has is %s, near position %s",
			 fields[FIELD_EVENT]->str, fields[FIELD_POSITION]->str) :
	"it has none of this subscription";
	RedisMark	had = sink->mark;

	sink->mark = *has;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("Redis has lost events that it had acknowledged: %s", subject),
			 errdetail("It has delivery " INT64_FORMAT ", and had " INT64_FORMAT ". These numbers are about the time in milliseconds since 1970.",
					   has->number, Max(had.number, had.whole)),
			 errhint("To send them again use seek_to_position() or seek_to_time().")));
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("Redis has lost events that it had acknowledged: %s; to send them again use seek_to_position() or seek_to_time()",
					subject)));
}

/*
 * Redis may know of a delivery that the database does not, where that went over to
 * a standby, or back to a backup, without its last transactions.
 */
static void
check_ahead(RedisSink *sink, const RedisMark *has, const redisReply * delivery)
{
	const char *timeline = has->number > 0 ? strchr(delivery->str, '/') : NULL;

	if (sink->warned || has->number < sink->making.number ||
		(has->number == sink->making.number &&
		 (timeline == NULL || strtoul(timeline + 1, NULL, 10) == sink->making.timeline)))
		return;
	sink->warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("Redis is ahead of the database: it has delivery %s, and the database is at %lld/%u",
					delivery->str, (long long) sink->making.number, sink->making.timeline),
			 errdetail("The database has lost its last transactions; events that it delivers again are in the streams twice.")));
}

/*
 * Compare the books with what is known.
 */
static void
compare(RedisSink *sink, redisReply * reply)
{
	RedisMark	has = {.upto = -1};
	redisReply **fields = reply->element;

	if (reply->elements != NFIELDS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("Redis gave an answer that cannot be understood")));
	has.number = number_in(fields[FIELD_DELIVERY]);
	has.whole = number_in(fields[FIELD_WHOLE]);
	if (fields[FIELD_UPTO]->type == REDIS_REPLY_STRING)
		has.upto = atoi(fields[FIELD_UPTO]->str);
	check_ahead(sink, &has, fields[FIELD_DELIVERY]);
	if (is_behind(&has, &sink->mark))
		report_loss(sink, &has, fields);
}

/*
 * A replica that takes writes loses them when it next hears from its primary.
 */
static void
check_role(const redisReply * reply)
{
	if (reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 &&
		reply->element[0]->type == REDIS_REPLY_STRING &&
		strcmp(reply->element[0]->str, "slave") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("Redis is a replica")));
}

/*
 * Connect, have earlier connections shut out, and compare the books.
 */
void
redis_connect(RedisSink *sink, TimestampTz deadline)
{
	static const Step role = {"ROLE", true, false};
	static const Step write = {"HSET", false, false};
	static const Step read = {"HMGET", false, false};
	StringInfoData out;

	redis_open(&sink->connection, &sink->target, deadline);
	log_in(sink, deadline);
	make_session(sink);
	initStringInfo(&out);
	redis_command(&out, 1, "ROLE");
	redis_command(&out, 4, "HSET", sink->book, "session", sink->session);
	redis_command(&out, 2 + NFIELDS, "HMGET", sink->book, "delivery", "upto", "whole",
				  "event", "position");
	redis_send(&sink->connection, out.data, out.len, 3);
	pfree(out.data);
	check_role(answer_to(sink, &role, deadline));
	(void) answer_to(sink, &write, deadline);
	compare(sink, answer_to(sink, &read, deadline));
}

/*
 * A stream that had events is gone.  Say so, once, and have the next delivery
 * begin it anew.
 */
void
redis_note_gone(RedisSink *sink, const char *stream, const char *id, TimestampTz deadline)
{
	static const Step step = {"HDEL", false, false};
	char	   *field = psprintf("last:%s", stream);
	char	   *what = psprintf("stream \"%s\", which had events up to %s, is gone", stream, id);
	StringInfoData out;

	ereport(WARNING,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("Redis has lost events that it had acknowledged: %s", what),
			 errhint("To send them again use seek_to_position() or seek_to_time().")));
	initStringInfo(&out);
	redis_command(&out, 3, "HDEL", sink->book, field);
	redis_send(&sink->connection, out.data, out.len, 1);
	(void) answer_to(sink, &step, deadline);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("Redis has lost events that it had acknowledged: %s; to send them again use seek_to_position() or seek_to_time()",
					what)));
}
