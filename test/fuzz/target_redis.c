/*
 * target_redis.c
 *		What a Redis server answers to a delivery: nothing that it says may count as a delivery but what
 *		the script says of an event that is there, and nothing may end the process.
 *
 * An input is a byte that says how many events there were, and the bytes of the answer.
 */
#include "server.h"

#include <hiredis/hiredis.h>
#include <hiredis/read.h>

#include "redis_sink.h"
#include "common/hashfn.h"
#include "utils/hsearch.h"

/* not of interest here */
OiSinkHeader *
oi_cloudevent_attributes(const OiSinkState *state, const OiSinkEvent *event, int *n)
{
	*n = 0;
	return palloc(1);
}

void
redis_append_arg(StringInfo out, const char *arg)
{
}

void
redis_append_number(StringInfo out, int64 number)
{
}

void
redis_begin_command(StringInfo out, int nargs)
{
}

char *
redis_token(const OiSinkState *state)
{
	return "1/1";
}

HTAB *
hash_create(const char *name, long nelem, const HASHCTL *info, int flags)
{
	return (HTAB *) palloc(1);
}

void *
hash_search(HTAB *table, const void *key, HASHACTION action, bool *found)
{
	return NULL;
}

uint64
hash_bytes_extended(const unsigned char *bytes, int len, uint64 seed)
{
	return len;
}

static void
check(const redisReply * reply, int n)
{
	OiSinkEvent *events = palloc0(sizeof(OiSinkEvent) * n);
	int		   *streams = palloc0(sizeof(int) * n);
	const char *names[] = {"stream"};
	RedisPart	part = {.events = events,.n = n,.nstreams = 1,.streams = names,.stream = streams};
	bool		understood;

	for (int i = 0; i < n; i++)
	{
		events[i].key = "key";
		events[i].outcome = OI_SINK_RETRY;
	}
	understood = redis_part_read(&part, reply);
	for (int i = 0; i < n; i++)
	{
		char		letter = understood ? reply->element[1]->str[i] : 0;

		FUZZ_CHECK((events[i].outcome == OI_SINK_DELIVERED) == (letter == 'a' || letter == 'd'));
		FUZZ_CHECK(!understood || (events[i].reason == NULL) == (events[i].outcome == OI_SINK_DELIVERED));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	redisReader *reader;
	void	   *reply = NULL;
	int			n;

	if (size < 2)
		return 0;
	n = 1 + data[0] % 8;
	reader = redisReaderCreate();
	redisReaderFeed(reader, (const char *) data + 1, size - 1);
	/* a great number of elements is hiredis's matter, and takes memory */
	if (memchr(data, '*', size) != NULL && redisReaderGetReply(reader, &reply) == REDIS_OK && reply != NULL)
	{
		if (((redisReply *) reply)->type == REDIS_REPLY_ARRAY && FUZZ_TRY())
			check(reply, n);
		freeReplyObject(reply);
	}
	redisReaderFree(reader);
	fuzz_free_all();
	return 0;
}
