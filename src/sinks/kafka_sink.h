/*-------------------------------------------------------------------------
 *
 * kafka_sink.h
 *		What the sources of the sink "kafka" share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAFKA_SINK_H
#define KAFKA_SINK_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>

#include "compat.h"
#include "order_sink.h"
#include "shared_address.h"
#include "utils/hsearch.h"

/* ms until interrupts are looked at, while librdkafka is waited for */
#define KAFKA_SLICE 200

/* the one partition of the state topic that is used, so that their number may change */
#define KAFKA_STATE_PARTITION 0

/* what has no answer yet */
#define KAFKA_NO_ANSWER RD_KAFKA_RESP_ERR__IN_PROGRESS

/* a message's opaque value is a round times this, and an index: of an event, or
 * OI_SINK_MAX_EVENTS */
#define KAFKA_INDEXES 8192

/*
 * What librdkafka tells us.  Not in memory of PostgreSQL's: its threads may write
 * here, and may be there for longer than a sink.
 */
typedef struct KafkaInbox
{
	pthread_mutex_t lock;		/* of what follows */
	char		said[512];		/* the last thing that it complained of */
	char		refused[512];	/* the last broker that is where none may be */
	const OiNetworks *allowed;	/* addresses; NULL: all */

	/* written by rd_kafka_poll() and the like, so in our thread */
	uint16		round;			/* answers to messages of others are ignored */
	int			unanswered;
	rd_kafka_resp_err_t answers[OI_SINK_MAX_EVENTS];
	rd_kafka_resp_err_t own_answer; /* to a record for the state topic */
	int64		own_offset;
	rd_kafka_resp_err_t shut_out;	/* a broker does not let us in, or we do
									 * not trust it */
	bool		all_down;		/* no broker is left to try */
} KafkaInbox;

typedef struct KafkaSink
{
	OiSinkState *state;
	rd_kafka_t *producer;		/* NULL: not open */
	rd_kafka_t *reader;			/* of the state topic, while it is opened */
	rd_kafka_topic_t *state_topic;	/* of the reader */
	HTAB	   *topics;			/* that the producer was given messages for,
								 * by hash; NULL: none */
	bool		new_topics;		/* some of them just now */
	KafkaInbox *inbox;
	bool		transactions;
	const char *state_name;		/* the state topic's */
	uint32		timeline;		/* this server's */
	OiSinkToken marker;			/* what the receiver has */
	const char *without;		/* the indexes of events of that delivery that
								 * it has not, each between commas */
} KafkaSink;

/* what an answer says of the message */
typedef enum KafkaVerdict
{
	KAFKA_DELIVERED,
	KAFKA_REJECTED,				/* it will never be taken */
	KAFKA_REFUSED,				/* not now, and it is about this message's
								 * topic */
	KAFKA_UNTRIED,				/* another one was the reason */
	KAFKA_TROUBLE				/* the receiver's, or on the way there */
} KafkaVerdict;

/* what is let go of */
typedef enum KafkaEnd
{
	KAFKA_END_READER,
	KAFKA_END_HANDLES,
	KAFKA_END_PROCESS			/* all of it, and nothing may be left behind */
} KafkaEnd;

/* kafka.c */
extern void kafka_open(KafkaSink *sink, TimestampTz deadline);

/* kafka_handle.c */
extern KafkaInbox *kafka_new_inbox(const char *allowed);
extern rd_kafka_t *kafka_new_handle(KafkaSink *sink, rd_kafka_type_t type);
extern void kafka_close(KafkaSink *sink, KafkaEnd end);
extern char *kafka_complaint(const KafkaSink *sink);
extern void kafka_check_time(const KafkaSink *sink, TimestampTz deadline, const char *what);
OI_NORETURN extern void kafka_report(const KafkaSink *sink, rd_kafka_error_t *error, const char *what);

/* kafka_message.c */
extern const char *kafka_topic_fault(const char *topic, const char *state_topic);
extern void kafka_set_aside(OiSinkEvent *events, int n, int which, OiSinkOutcome outcome,
							const char *reason);
extern void kafka_reject_topics(const KafkaSink *sink, OiSinkEvent *events, int n);
extern void kafka_begin_round(KafkaSink *sink);
extern rd_kafka_resp_err_t kafka_send(KafkaSink *sink, const OiSinkEvent *event, int index);
extern rd_kafka_resp_err_t kafka_send_own(KafkaSink *sink, const char *key, const char *value);
extern void kafka_find_topics(KafkaSink *sink);
extern KafkaVerdict kafka_verdict(rd_kafka_resp_err_t answer);

/* kafka_topic.c */
OI_NORETURN extern void kafka_report_topic(const KafkaSink *sink, const char *what, rd_kafka_resp_err_t code);
extern bool kafka_is_final(rd_kafka_resp_err_t code);
extern void kafka_open_reader(KafkaSink *sink, TimestampTz deadline);

/* kafka_state.c */
extern void kafka_enter_transactions(KafkaSink *sink, TimestampTz deadline);
extern void kafka_send_marker(KafkaSink *sink, const char *without);

/* kafka_refusal.c */
extern void kafka_remember_refusal(const OiSinkState *state, const OiSinkEvent *event,
								   rd_kafka_resp_err_t answer);
extern rd_kafka_resp_err_t kafka_recall_refusal(const OiSinkState *state, const OiSinkEvent *event);

/* kafka_transaction.c */
extern void kafka_begin(KafkaSink *sink);
extern rd_kafka_error_t *kafka_commit(KafkaSink *sink, TimestampTz deadline);
extern void kafka_abort(KafkaSink *sink, TimestampTz deadline);
extern void kafka_note_delivered(const KafkaSink *sink, OiSinkEvent *events, int n);
extern void kafka_deliver_transaction(KafkaSink *sink, OiSinkEvent *events, int n, TimestampTz deadline);

#endif							/* KAFKA_SINK_H */
