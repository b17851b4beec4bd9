/*-------------------------------------------------------------------------
 *
 * rabbitmq_sink.h
 *		What the parts of the sink "rabbitmq" share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RABBITMQ_SINK_H
#define RABBITMQ_SINK_H

#include <pthread.h>

/* the library's headers, which have moved with its version 0.12 */
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/ssl_socket.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#endif

#include "shared_address.h"
#include "shared_aside.h"
#include "shared_keys.h"

/* the one channel of a connection */
#define RABBIT_CHANNEL 1

/* the longest short string of AMQP: routing keys, names of headers */
#define RABBIT_SHORT 255

/* bytes of headers in one message, at most: they have to fit into a frame */
#define RABBIT_HEADER_BYTES (96 * 1024)

/* bytes of messages that wait for their confirm, at most, or one larger one */
#define RABBIT_BYTES_IN_FLIGHT (4 * 1024 * 1024)

/* what became of a message */
typedef enum RabbitFate
{
	RABBIT_NEW = 0,				/* not sent, or it is not to be sent */
	RABBIT_SENT,				/* and not known more of */
	RABBIT_RETURNED,			/* no queue got it; its confirm is to follow */
	RABBIT_CONFIRMED,
	RABBIT_UNROUTABLE,			/* returned, and then confirmed */
	RABBIT_REFUSED				/* a negative confirm */
} RabbitFate;

typedef struct RabbitMessage
{
	const char *routing_key;
	amqp_bytes_t body;
	amqp_basic_properties_t properties;
	size_t		size;			/* of all of it, about */
	bool		unfit;			/* is not to be sent at all */
	RabbitFate	fate;
	char		answer[64];		/* to one that was returned */
} RabbitMessage;

/*
 * A connection and what it is made with.  Between startup and shutdown only the
 * thread touches it, but for the first part, which never changes, and what is
 * guarded by the mutex.
 */
typedef struct RabbitSink
{
	const char *host;
	int			port;
	const OiNetworks *allowed;	/* addresses; NULL: all */
	const char *virtual_host;
	const char *exchange;
	const char *user;
	const char *password;
	const char *name;			/* of the connection, for people */
	bool		tls;
	bool		external;
	const char *ca_file;		/* NULL: the system's */
	const char *cert_file;
	const char *key_file;
	int			heartbeat;		/* s */
	int			timeout;		/* ms */
	int			max_in_flight;

	OiAside    *aside;

	pthread_mutex_t mutex;
	int			fd;				/* of the connection; -1: none */
	bool		hurry;			/* come to an end */

	amqp_connection_state_t connection; /* NULL: none */
	uint64_t	next_tag;		/* of the next message on it */
	bool		blocked;		/* the broker wants no more for now */
	char		blocked_reason[128];
} RabbitSink;

/* one call of deliver */
typedef struct RabbitJob
{
	RabbitSink *sink;
	RabbitMessage *messages;
	OiKeyQueue	queue;

	/* of the messages sent, in the order of their tags */
	uint64_t	first_tag;
	int		   *sent;
	int			nsent;
	int			settled;		/* those before this one have their confirm */
	int			in_flight;
	size_t		bytes_in_flight;

	int64_t		heard;			/* when the last confirm came, or the wait for
								 * it began */
	int			code;			/* of the exception of AMQP that ended it, or
								 * 0 */
	char		error[512];		/* why it ended early; empty: it did not */
} RabbitJob;

/* in rabbitmq_connection.c; all but rabbit_break run in the thread */
extern int64_t rabbit_now(void);
extern bool rabbit_hurried(RabbitSink *sink);
extern bool rabbit_connect(RabbitSink *sink, RabbitJob *job);
extern void rabbit_disconnect(RabbitSink *sink);
extern bool rabbit_note_frame(RabbitSink *sink, const amqp_frame_t * frame, RabbitJob *job);
extern void rabbit_idle(void *arg);
extern void rabbit_break(RabbitSink *sink);

/* in rabbitmq_publish.c, in the thread */
extern void rabbit_publish(void *arg);

#endif							/* RABBITMQ_SINK_H */
