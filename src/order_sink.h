/*-------------------------------------------------------------------------
 *
 * order_sink.h
 *		The interface between a subscription's worker and a sink.
 *
 * A sink is a shared library, order_idempotency_<name>, that exports
 * _PG_order_sink_init.  It is loaded only by the worker of a subscription
 * whose server belongs to the foreign-data wrapper of that same name.
 *
 * Life cycle: check_configured, startup, any number of deliver, shutdown.
 * All of them run outside of transactions: a sink sees no table, and may wait
 * for its receiver without holding a snapshot.  After a callback raised an
 * ERROR the worker cleans up as an aborting transaction would and calls
 * again later: deliver if startup had returned, else startup, before which
 * shutdown is called, so that a half-started sink can let go of what it has.
 * So it is, too, after five errors of deliver in a row.
 *
 * The worker may end wherever a callback reaches CHECK_FOR_INTERRUPTS() or
 * raises a FATAL error; then shutdown is called while that callback has not
 * returned.
 *
 * No callback may block for longer than a second without reaching
 * CHECK_FOR_INTERRUPTS(): if somebody waits for the worker, it is ended without
 * shutdown.  Threads of a library must not call PostgreSQL's functions, must be
 * started with all signals blocked, and must be joined in shutdown.
 *
 * Include postgres.h before this file, and in C++ both within extern "C".
 *
 * docs/writing-a-sink.md has all of this at length, with an example.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ORDER_SINK_H
#define OI_ORDER_SINK_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/inet.h"
#include "utils/uuid.h"

/* changes with every change of what is below */
#define OI_SINK_MAGIC 0x4F495303

/* bounds of one call of deliver, and so of what a crash leaves unrecorded */
#define OI_SINK_MAX_EVENTS 5000
#define OI_SINK_MAX_BYTES (8 * 1024 * 1024) /* or one larger event */

/* bytes in a sink's memory context; one that has more is started anew */
#define OI_SINK_MAX_MEMORY (64 * 1024 * 1024)

/*
 * What became of an event.  Zero is what an event has before it is handed
 * over, so one that is forgotten is sent again.
 */
typedef enum OiSinkOutcome
{
	OI_SINK_RETRY = 0,			/* not there, or unknown: send it again */
	OI_SINK_DELIVERED,			/* the receiver has it for good */
	OI_SINK_REJECTED			/* the receiver will never take it */
} OiSinkOutcome;

/* one header that travels with an event */
typedef struct OiSinkHeader
{
	const char *name;
	const char *value;
} OiSinkHeader;

/* One event.  All text is valid UTF-8, whatever the database's encoding. */
typedef struct OiSinkEvent
{
	int64		position;		/* in the log; may be issued again after a
								 * failover */
	pg_uuid_t	event_id;		/* never is, and the same on every attempt */
	const char *event_id_text;
	const char *key;			/* the order's key, or emit_event's */
	int			version;		/* of the order; 0: none */
	const char *type;
	const char *topic;			/* where to: the subscription's, expanded; of
								 * letters, digits and "._-/" */
	const char *payload;		/* JSON, or NULL */
	int			nheaders;
	const OiSinkHeader *headers;
	TimestampTz created_at;
	int			index;			/* in its delivery, from 0; of a numbered sink
								 * the same on every attempt under a number */

	/* filled by deliver; what it changes above is not looked at */
	OiSinkOutcome outcome;
	const char *reason;			/* of anything but delivered, in the
								 * database's encoding; a retry without one
								 * was not tried and does not count as an
								 * attempt */
	int			retry_after;	/* ms that the receiver asks to wait before
								 * the next attempt; 0: it does not say */
} OiSinkEvent;

/*
 * A delivery of a numbered sink, as the database and the receiver remember it.
 * Equal tokens are one delivery.  Numbers grow, by one or by more: they are
 * about milliseconds since 1970.  After a failover that lost the last of them, a
 * number may be given out again, on another timeline.
 */
typedef struct OiSinkToken
{
	int64		number;			/* 0: none */
	uint32		timeline;		/* the server's, when the number was given out */
} OiSinkToken;

/* What a sink knows of the subscription that it serves.  Grows at its end. */
typedef struct OiSinkState
{
	void	   *private_data;	/* the sink's own */
	MemoryContext context;		/* lives from startup to shutdown */
	const char *subscription;
	const char *topic;			/* the subscription's, with placeholders */
	const char *source;			/* CloudEvents "source", a URI in ASCII */
	List	   *options;		/* DefElems of the server */
	List	   *user_options;	/* DefElems of the owner's user mapping */
	int			longest_wait;	/* ms between two attempts of an event, at
								 * most */
	const char *identity;		/* of the subscription, among those of all
								 * databases anywhere; letters, digits, "."
								 * and "-" */

	/* of a numbered sink; startup may set it to false */
	bool		numbered;
	OiSinkToken token;			/* of the delivery that is made; in startup,
								 * of the last that was recorded */
	bool		repeated;		/* that delivery may have been made before */
	bool		knows_receiver; /* startup may set these: the last that the
								 * receiver has */
	OiSinkToken receiver;
	int64		settled;		/* in startup: the last delivery of which it
								 * is recorded what became of each event, so
								 * that the receiver has to know it; 0: none */
} OiSinkState;

typedef struct OiSinkCallbacks
{
	uint32		magic;			/* OI_SINK_MAGIC */

	/* optional: NULL, or what is missing in the configuration */
	const char *(*check_configured) (OiSinkState *state);

	/* optional: connect, allocate */
	void		(*startup) (OiSinkState *state);

	/*
	 * Required: deliver events, in their order, until the deadline, and fill
	 * an outcome for each.  Where an event is not delivered, none of the same
	 * key behind it may be: it counts as one to be sent again, whatever its
	 * outcome.  An ERROR means that all of them are to be sent again.
	 * CurrentMemoryContext is reset after the call and what came of it is
	 * noted.
	 */
	void		(*deliver) (OiSinkState *state, OiSinkEvent *events, int n,
							TimestampTz deadline);

	/*
	 * optional: disconnect, free, join threads, all within three seconds;
	 * must not raise an ERROR
	 */
	void		(*shutdown) (OiSinkState *state);

	/*
	 * A numbered sink has a receiver that refuses repeats by number, or that
	 * keeps the last number with what it was sent.  A delivery to it is
	 * recorded before it is made, with a number, and so are its events and
	 * their indexes in it.  It is made again, under the same number, until
	 * all is known: of an event that is left as OI_SINK_RETRY without a
	 * reason, or after an ERROR, nothing is.  Then it comes again at the same
	 * index; those with another outcome do not.  OI_SINK_RETRY with a reason
	 * says that the receiver does not have the event, and never will under
	 * that number; it gets another one.
	 *
	 * Where startup says what the receiver has, a recorded delivery with that
	 * token counts as delivered and is not made again.  Such a sink is
	 * started anew after an ERROR, and when it left an event of which nothing
	 * is known.
	 */
	bool		numbered;
} OiSinkCallbacks;

typedef const OiSinkCallbacks *(*OiSinkInit) (void);

/* what a sink's library exports */
extern PGDLLEXPORT const OiSinkCallbacks *_PG_order_sink_init(void);

/* the value of an option, or NULL */
extern PGDLLEXPORT const char *oi_sink_option(List *options, const char *name);

/* how many bytes a size such as "64MB" is; false: it is no size */
extern PGDLLEXPORT bool oi_sink_bytes(const char *size, int64 *bytes);

/* the networks in a comma-separated list of addresses and networks */
extern PGDLLEXPORT inet **oi_sink_networks(const char *list, int *n);

/* the CloudEvents attributes of an event, in the current memory context */
extern PGDLLEXPORT OiSinkHeader *oi_cloudevent_attributes(const OiSinkState *state,
														  const OiSinkEvent *event, int *n);

/* one event as a structured CloudEvent: a line of JSON, without the newline */
extern PGDLLEXPORT void oi_cloudevent_append(StringInfo buf, const OiSinkState *state,
											 const OiSinkEvent *event);

/* the CloudEvents source of a database; needs a transaction */
extern PGDLLEXPORT char *oi_cloudevent_source(const char *database);

#endif							/* OI_ORDER_SINK_H */
