/*-------------------------------------------------------------------------
 *
 * kafka.c
 *		Publishing with librdkafka, with the properties that the sink sets.
 *
 * With a transactional id each batch is a transaction, with a record in the
 * topic of states besides, as the sink's have.  Without one, all are handed over as
 * fast as the library takes them, and acknowledged by all replicas in sync.
 *
 *-------------------------------------------------------------------------
 */
#include <librdkafka/rdkafka.h>

#include "bare.h"

#define STATE_TOPIC	"bare_state"

static rd_kafka_t *producer;
static int	unanswered;

static const char *const names[ATTRIBUTES] = {
	"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time",
	"ce_partitionkey", "ce_sequence", "content-type"
};

/* Called by the library: a message was delivered, or was not. */
static void
answered(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque)
{
	(void) handle;
	(void) opaque;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("%s", rd_kafka_err2str(message->err));
	unanswered--;
}

/* Ends where something went wrong. */
static void
check(rd_kafka_error_t *error)
{
	if (error != NULL)
		die("%s", rd_kafka_error_string(error));
}

/* Sets a property. */
static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		said[256];

	if (rd_kafka_conf_set(conf, name, value, said, sizeof(said)) != RD_KAFKA_CONF_OK)
		die("%s", said);
}

void
publisher_open(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		said[256];

	set(conf, "bootstrap.servers", options.target);
	set(conf, "enable.idempotence", "true");
	set(conf, "linger.ms", "5");
	set(conf, "partitioner", "murmur2_random");
	set(conf, "queue.buffering.max.kbytes", "65536");
	if (options.transactional_id != NULL)
		set(conf, "transactional.id", options.transactional_id);
	rd_kafka_conf_set_dr_msg_cb(conf, answered);
	producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, said, sizeof(said));
	if (producer == NULL)
		die("%s", said);
	if (options.transactional_id != NULL)
		check(rd_kafka_init_transactions(producer, -1));
}

/* Hands over a message; where the queue is full, waits. */
static void
produce(const Event *event)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(ATTRIBUTES);
	rd_kafka_resp_err_t code;

	for (int i = 0; i < ATTRIBUTES; i++)
		(void) rd_kafka_header_add(headers, names[i], -1, event->value[i], -1);
	while ((code = rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(options.topic),
									 RD_KAFKA_V_KEY(event->value[SUBJECT], strlen(event->value[SUBJECT])),
									 RD_KAFKA_V_VALUE((void *) event->payload, event->payload_size),
									 RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_MSGFLAGS(0),
									 RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		rd_kafka_poll(producer, 100);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("%s", rd_kafka_err2str(code));
	unanswered++;
}

/* Hands over the record that says which transaction this is. */
static void
produce_marker(void)
{
	static long number = 0;
	char		value[64];
	rd_kafka_resp_err_t code;

	snprintf(value, sizeof(value), "{\"number\": %ld, \"timeline\": 1, \"without\": \"\"}", ++number);
	code = rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(STATE_TOPIC), RD_KAFKA_V_PARTITION(0),
							 RD_KAFKA_V_KEY(options.transactional_id, strlen(options.transactional_id)),
							 RD_KAFKA_V_VALUE(value, strlen(value)),
							 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("%s", rd_kafka_err2str(code));
	unanswered++;
}

/* Hands over so many, and takes answers meanwhile. */
static void
produce_batch(const Event *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		produce(&events[i]);
		if (i % 64 == 63)
			rd_kafka_poll(producer, 0);
	}
}

void
publish(const Event *events, int n)
{
	for (int done = 0; options.transactional_id != NULL && done < n; done += options.batch)
	{
		check(rd_kafka_begin_transaction(producer));
		produce_batch(events + done, n - done < options.batch ? n - done : options.batch);
		produce_marker();
		check(rd_kafka_commit_transaction(producer, -1));
	}
	if (options.transactional_id == NULL)
	{
		produce_batch(events, n);
		(void) rd_kafka_flush(producer, -1);
	}
	if (unanswered != 0)
		die("%d messages have no answer", unanswered);
}
