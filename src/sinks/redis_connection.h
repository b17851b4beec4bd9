/*-------------------------------------------------------------------------
 *
 * redis_connection.h
 *		A connection to a Redis server that is never waited for without end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_CONNECTION_H
#define REDIS_CONNECTION_H

#include <hiredis.h>

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "shared_address.h"
#include "utils/timestamp.h"

/* where to, and how */
typedef struct RedisTarget
{
	const char *host;			/* or the path of a Unix socket */
	int			port;
	OiNetworks *allowed;		/* addresses; NULL: all */
	int			timeout;		/* ms for an answer */
} RedisTarget;

typedef struct RedisLookup RedisLookup;

typedef struct RedisConnection
{
	redisContext *context;		/* NULL: not connected */
	redisReply *reply;			/* the last one that was received */
	int			waiting;		/* answers that have not come */
	RedisLookup *lookup;		/* of the host's name, under way */
} RedisConnection;

extern void redis_open(RedisConnection *connection, const RedisTarget *target,
					   TimestampTz deadline);
extern void redis_close(RedisConnection *connection);
extern bool redis_is_idle(const RedisConnection *connection);

extern void redis_begin_command(StringInfo out, int nargs);
extern void redis_append_arg(StringInfo out, const char *arg);
extern void redis_append_number(StringInfo out, int64 number);
extern void redis_command(StringInfo out, int nargs,...);

extern void redis_send(RedisConnection *connection, const char *commands, size_t len, int n);
extern void redis_push(RedisConnection *connection, const RedisTarget *target);
extern redisReply * redis_receive(RedisConnection *connection, const RedisTarget *target,
								  TimestampTz deadline);

#endif							/* REDIS_CONNECTION_H */
