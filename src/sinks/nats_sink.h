/*-------------------------------------------------------------------------
 *
 * nats_sink.h
 *		What the parts of the sink "nats" share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_SINK_H
#define NATS_SINK_H

#include <nats/nats.h>
#include <pthread.h>

#include "shared_address.h"
#include "shared_aside.h"
#include "shared_keys.h"

/* bytes of messages that wait for their acknowledgement, at most, or one larger one */
#define NATS_BYTES_IN_FLIGHT (4 * 1024 * 1024)

/* streams whose settings were looked at are remembered, so many of them */
#define NATS_STREAMS_KNOWN 8
#define NATS_STREAM_NAME 128

/* what became of an event's message */
typedef enum NatsFate
{
	NATS_FATE_NEW = 0,			/* not sent */
	NATS_FATE_SENT,				/* and not known more of */
	NATS_FATE_STORED,
	NATS_FATE_REFUSED,			/* may be taken later */
	NATS_FATE_REJECTED			/* never will be */
} NatsFate;

typedef struct NatsHeader
{
	const char *name;
	const char *value;
} NatsHeader;

typedef struct NatsMessage
{
	const char *subject;
	const char *id;
	const char *data;
	int			length;
	size_t		size;			/* of all of it, about */
	NatsHeader *headers;
	int			nheaders;
	NatsFate	fate;
	natsMsg    *sent;			/* the library's, while it is under way */
	char	   *answer;			/* why it was not stored; from malloc() */
} NatsMessage;

typedef struct NatsJob NatsJob;

/* how much longer a subscription waits than a stream remembers */
typedef struct NatsShort
{
	char		stream[NATS_STREAM_NAME];
	int64_t		window;			/* ms; 0: nothing is to be said */
} NatsShort;

/*
 * A connection and what it is made with.  The first part never changes; the second
 * is the thread's; the rest is guarded by the mutex, since the library calls from
 * threads of its own.
 */
typedef struct NatsSink
{
	const char **urls;			/* NULL ends the list */
	const char **hosts;			/* the names in these */
	const OiNetworks *allowed;	/* addresses; NULL: all */
	bool		tls;
	const char *stream;			/* NULL: any */
	const char *user;
	const char *password;
	const char *token;
	const char *nkey;
	const char *nkey_seed;
	const char *jwt;
	const char *ca_file;
	const char *cert_file;
	const char *key_file;
	const char *name;			/* of the connection, for people */
	int			timeout;		/* ms */
	int			max_in_flight;
	int64_t		longest_wait;	/* ms */

	OiAside    *aside;

	natsConnection *connection; /* NULL: none */
	jsCtx	   *stream_context;
	bool		used;			/* the library was */
	char		known[NATS_STREAMS_KNOWN][NATS_STREAM_NAME];
	int			nknown;

	pthread_mutex_t mutex;
	pthread_cond_t heard;		/* something came of the connection */
	bool		hurry;			/* come to an end */
	bool		closed;
	NatsJob    *job;			/* whom acknowledgements are for, or NULL */
} NatsSink;

/* one call of deliver */
struct NatsJob
{
	NatsSink   *sink;
	NatsMessage *messages;

	/* from here on guarded by the sink's mutex while messages are under way */
	OiKeyQueue	queue;
	int		   *sent;			/* messages in the order in which they were
								 * sent */
	int			nsent;
	int			settled;		/* those before this one are known of */
	int			in_flight;
	size_t		bytes_in_flight;
	bool		starved;		/* the thread that publishes waits for any
								 * message to be let go of */
	int64_t		heard;			/* when the last answer came, or the wait for
								 * it began */
	char		stored_in[NATS_STREAM_NAME];	/* the stream of the last one */

	NatsShort	too_short;		/* a stream that forgets too soon */
	char		error[512];		/* why it ended early; empty: it did not */
};

/* in nats_connection.c, in the thread */
extern int64_t nats_clock(void);
extern bool nats_connect(NatsSink *sink, NatsJob *job);
extern void nats_disconnect(NatsSink *sink);
extern void nats_look_at_stream(NatsSink *sink, NatsJob *job, const char *stream);
extern void nats_idle(void *arg);

/* in nats_publish.c, in the thread */
extern void nats_publish(void *arg);
extern void nats_acknowledged(jsCtx * js, natsMsg * message, jsPubAck * ack, jsPubAckErr * error,
							  void *arg);

#endif							/* NATS_SINK_H */
