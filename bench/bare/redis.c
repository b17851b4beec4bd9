/*-------------------------------------------------------------------------
 *
 * redis.c
 *		Publishing with hiredis: XADD in a pipeline, each with an id of its own.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis/hiredis.h>
#include <sys/time.h>

#include "bare.h"

/* XADD, the stream, the id, and two arguments for each field */
#define MAX_ARGS	(3 + 2 * (ATTRIBUTES + 1))

static redisContext *context;
static int	unanswered;
static long long number;		/* first part of ids */
static int	place;				/* second part */

/* fields in the order in which the sink has them */
static const Attribute fields[ATTRIBUTES] = {
	ID, SUBJECT, SPECVERSION, SOURCE, TYPE, TIME, PARTITIONKEY, SEQUENCE, DATACONTENTTYPE
};
static const char *const names[ATTRIBUTES] = {
	"id", "subject", "specversion", "source", "type", "time", "partitionkey", "sequence", "datacontenttype"
};

void
publisher_open(void)
{
	context = redisConnect("127.0.0.1", port_of_target());
	if (context == NULL || context->err)
		die("could not connect: %s", context ? context->errstr : "out of memory");
}

/* Adds an argument. */
static void
add_argument(const char **args, size_t *sizes, int *n, const char *arg, size_t size)
{
	args[*n] = arg;
	sizes[(*n)++] = size;
}

/* Puts an event into the output buffer. */
static void
append(const Event *event)
{
	const char *args[MAX_ARGS];
	size_t		sizes[MAX_ARGS];
	char		id[48];
	int			n = 0;

	snprintf(id, sizeof(id), "%lld-%d", number, place++);
	add_argument(args, sizes, &n, "XADD", 4);
	add_argument(args, sizes, &n, options.topic, strlen(options.topic));
	add_argument(args, sizes, &n, id, strlen(id));
	for (int i = 0; i < ATTRIBUTES; i++)
	{
		add_argument(args, sizes, &n, names[i], strlen(names[i]));
		add_argument(args, sizes, &n, event->value[fields[i]], strlen(event->value[fields[i]]));
	}
	add_argument(args, sizes, &n, "data", 4);
	add_argument(args, sizes, &n, event->payload, event->payload_size);
	if (redisAppendCommandArgv(context, n, args, sizes) != REDIS_OK)
		die("%s", context->errstr);
	unanswered++;
}

/* Waits for answers until only so many are missing. */
static void
await(int most)
{
	while (unanswered > most)
	{
		redisReply *reply;

		if (redisGetReply(context, (void **) &reply) != REDIS_OK)
			die("%s", context->errstr);
		if (reply->type != REDIS_REPLY_STRING)
			die("refused: %s", reply->str);
		freeReplyObject(reply);
		unanswered--;
	}
}

void
publish(const Event *events, int n)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	number = now.tv_sec * 1000LL + now.tv_usec / 1000 > number ? now.tv_sec * 1000LL + now.tv_usec / 1000 :
		number + 1;
	place = 0;
	for (int i = 0; i < n; i++)
	{
		append(&events[i]);

		/* half of the window is on its way while the other half is made */
		if (unanswered >= options.in_flight)
			await(options.in_flight / 2);
	}
	await(0);
}
