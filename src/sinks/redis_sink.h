/*-------------------------------------------------------------------------
 *
 * redis_sink.h
 *		What the files of the sink "redis" share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_SINK_H
#define REDIS_SINK_H

#include "order_sink.h"
#include "redis_connection.h"
#include "utils/hsearch.h"

/* how far the books are, by the receiver's or by ours */
typedef struct RedisMark
{
	int64		number;			/* of the last delivery; 0: none */
	int			upto;			/* the last of its events */
	int64		whole;			/* the last delivery that is there as a whole */
} RedisMark;

typedef struct RedisSink
{
	RedisTarget target;
	const char *username;		/* NULL: the default user */
	const char *password;
	const char *database;		/* NULL: the first */
	const char *maxlen;			/* empty: streams are not trimmed */
	int			max_events;		/* in one call of the script */
	const char *wait_replicas;	/* NULL: do not wait */
	const char *wait_timeout;
	const char *book;			/* key of what the receiver remembers */
	char		session[33];	/* of this connection, in hex */
	RedisConnection connection;
	RedisMark	mark;			/* what the receiver has told that it has */
	OiSinkToken making;			/* the delivery that is made */
	bool		warned;			/* that the database is behind */
	int			script_for;		/* deliveries without transactions */
} RedisSink;

/* events that go out in one call of the script */
typedef struct RedisPart
{
	OiSinkState *state;
	OiSinkEvent *events;
	int			n;
	bool		last;			/* nothing of the delivery is behind them */
	const char **streams;		/* that they go to */
	int			nstreams;
	int		   *stream;			/* of each event */
	HTAB	   *barred;			/* keys of which an event was refused, in this
								 * part or before; NULL: none */
} RedisPart;

/* in redis.c */
extern void redis_note_part(RedisSink *sink, const RedisPart *part);

/* in redis_book.c */
extern void redis_connect(RedisSink *sink, TimestampTz deadline);
extern void redis_note_gone(RedisSink *sink, const char *stream, const char *id,
							TimestampTz deadline);
extern char *redis_token(const OiSinkState *state);

/* in redis_part.c */
extern void redis_part_cut(RedisPart *part, OiSinkState *state, OiSinkEvent *events, int n, int most);
extern void redis_part_reject(OiSinkEvent *events, int n);
extern void redis_part_append(const RedisPart *part, const RedisSink *sink, StringInfo out);
extern int	redis_part_append_fields(StringInfo out, const OiSinkState *state, const OiSinkEvent *event);
extern bool redis_part_read(RedisPart *part, const redisReply * reply);

/* in redis_transaction.c */
extern int	redis_deliver_transactions(RedisSink *sink, OiSinkState *state, OiSinkEvent *events,
									   int n, TimestampTz deadline);

#endif							/* REDIS_SINK_H */
