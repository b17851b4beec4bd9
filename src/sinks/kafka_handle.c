/*-------------------------------------------------------------------------
 *
 * kafka_handle.c
 *		Handles of librdkafka: made from the options, and ended.
 *
 * librdkafka works in threads of its own.  All signals are blocked in them; what
 * they call of ours, the functions for messages of its log and for connections, knows
 * of nothing but memory that is not PostgreSQL's.  Answers are handed over in our own
 * thread, by rd_kafka_poll() and functions that do its work besides.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <signal.h>
#include <syslog.h>
#include <time.h>

#include "kafka_sink.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* ms that shutdown waits for the end of handles: it has three seconds */
#define END_TIMEOUT 2600

/* what has to be let go of, by a thread of ours */
typedef struct Ending
{
	rd_kafka_t *producer;
	rd_kafka_t *reader;
	rd_kafka_topic_t *topic;
} Ending;

/* properties that server and user mapping may set, under the same names */
static const char *const server_properties[] = {
	"batch.size", "bootstrap.servers", "client.id", "compression.type", "linger.ms",
	"message.max.bytes", "partitioner", "sasl.mechanism", "security.protocol", "socket.timeout.ms",
	"ssl.ca.location", "ssl.certificate.location", "ssl.key.location"
};
static const char *const user_properties[] = {
	"sasl.password", "sasl.username", "ssl.key.password"
};

/* what is set for all handles, before the options */
static const char *const fixed[][2] = {
	{"client.id", "order_idempotency"},
	{"connections.max.idle.ms", "0"},
	{"log.connection.close", "false"},
	{"reconnect.backoff.ms", "50"},
	{"reconnect.backoff.max.ms", "1000"},
	{"socket.connection.setup.timeout.ms", "10000"},
	{"socket.keepalive.enable", "true"},
	{"socket.timeout.ms", "10000"},
};

/* for producers: what is in their memory is bounded, and so is the wait for a topic */
static const char *const of_producers[][2] = {
	{"enable.idempotence", "true"},
	{"linger.ms", "5"},
	{"partitioner", "murmur2_random"},
	{"queue.buffering.max.kbytes", "65536"},
	{"topic.metadata.propagation.max.ms", "2000"},
};

/* for readers: from one partition to its end, and nothing is left behind */
static const char *const of_readers[][2] = {
	{"auto.offset.reset", "earliest"},
	{"enable.auto.commit", "false"},
	{"enable.partition.eof", "true"},
	{"fetch.wait.max.ms", "50"},
	{"isolation.level", "read_committed"},
};

/*
 * librdkafka callback, in any thread: keep the last complaint.
 */
static void
take_complaint(const rd_kafka_t *handle, int level, const char *facility, const char *said)
{
	KafkaInbox *inbox = rd_kafka_opaque(handle);

	if (level > LOG_WARNING || inbox == NULL)
		return;
	pthread_mutex_lock(&inbox->lock);
	strlcpy(inbox->said, said, sizeof(inbox->said));
	pthread_mutex_unlock(&inbox->lock);
}

/*
 * librdkafka callback, in any thread: connect to a broker, one that was named to us or one
 * that another broker named, if its address is allowed.  The socket does not block.
 */
static int
connect_broker(int fd, const struct sockaddr *address, int len, const char *broker, void *opaque)
{
	KafkaInbox *inbox = opaque;
	char text[	NI_MAXHOST] = "";
	bool		allowed;

	pthread_mutex_lock(&inbox->lock);
	allowed = oi_address_allowed(inbox->allowed, address);
	if (!allowed && oi_address_text(address, text, sizeof(text)))
		snprintf(inbox->refused, sizeof(inbox->refused), "%s (%.50s)", broker, text);
	pthread_mutex_unlock(&inbox->lock);
	if (!allowed)
		return EACCES;
	return connect(fd, address, len) == 0 || errno == EINPROGRESS ? 0 : errno;
}

/*
 * What librdkafka last complained of, and which broker it must not connect to, each
 * behind a separator; or nothing.
 */
char *
kafka_complaint(const KafkaSink *sink)
{
	char		said[sizeof(sink->inbox->said)];
	char		refused[sizeof(sink->inbox->refused)];

	pthread_mutex_lock(&sink->inbox->lock);
	strlcpy(said, sink->inbox->said, sizeof(said));
	strlcpy(refused, sink->inbox->refused, sizeof(refused));
	pthread_mutex_unlock(&sink->inbox->lock);
	return psprintf("%s%s%s%s%s", refused[0] ? "; broker " : "", refused,
					refused[0] ? ": " OI_ADDRESS_REFUSED : "",
					said[0] ? "; last message of librdkafka: " : "", said);
}

/*
 * librdkafka callback, in our own thread: a message was delivered, or was not.
 * What it was is in its opaque value: the round, and the index of the event or
 * OI_SINK_MAX_EVENTS.
 */
static void
take_answer(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque)
{
	KafkaInbox *inbox = opaque;
	uintptr_t	what = (uintptr_t) message->_private;
	uint32		index = what % KAFKA_INDEXES;

	if (what / KAFKA_INDEXES != inbox->round)
		return;
	if (index < OI_SINK_MAX_EVENTS && inbox->answers[index] == KAFKA_NO_ANSWER)
	{
		inbox->answers[index] = message->err;
		inbox->unanswered--;
	}
	else if (index == OI_SINK_MAX_EVENTS)
	{
		inbox->own_answer = message->err;
		inbox->own_offset = message->offset;
	}
}

/*
 * librdkafka callback, in our own thread: something went wrong, of which it will not
 * give up by itself.
 */
static void
take_error(rd_kafka_t *handle, int code, const char *said, void *opaque)
{
	KafkaInbox *inbox = opaque;

	if (code == RD_KAFKA_RESP_ERR__AUTHENTICATION || code == RD_KAFKA_RESP_ERR__SSL)
		inbox->shut_out = code;
	inbox->all_down |= code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
}

/*
 * A copy of networks that outlives every thread: it is never given back.
 */
static const OiNetworks *
keep_networks(const OiNetworks *networks)
{
	size_t		size = oi_networks_size(networks);
	OiNetworks *copy = malloc(size);

	if (copy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	memcpy(copy, networks, size);
	return copy;
}

/*
 * Allow connections to these addresses.  The same as before are not kept once more.
 */
static void
allow_addresses(KafkaInbox *inbox, const char *list)
{
	const OiNetworks *networks = oi_networks_parse(list);
	const OiNetworks *old = inbox->allowed;

	if (networks != NULL && old != NULL &&
		oi_networks_size(networks) == oi_networks_size(old) &&
		memcmp(networks, old, oi_networks_size(old)) == 0)
		networks = old;
	else if (networks != NULL)
		networks = keep_networks(networks);
	pthread_mutex_lock(&inbox->lock);
	inbox->allowed = networks;
	inbox->refused[0] = '\0';
	pthread_mutex_unlock(&inbox->lock);
}

/*
 * An inbox.  It is never given back: a process has one sink, and threads that a
 * name server holds up may be there for longer than that.
 */
KafkaInbox *
kafka_new_inbox(const char *allowed)
{
	static KafkaInbox *inbox = NULL;

	if (inbox == NULL)
	{
		inbox = calloc(1, sizeof(KafkaInbox));
		if (inbox == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		pthread_mutex_init(&inbox->lock, NULL);
	}
	inbox->said[0] = '\0';
	allow_addresses(inbox, allowed);
	return inbox;
}

/*
 * Set a property.  What it was set to is not told: it may be a secret.
 */
static void
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		said[256];

	if (value == NULL || rd_kafka_conf_set(conf, name, value, said, sizeof(said)) == RD_KAFKA_CONF_OK)
		return;
	rd_kafka_conf_destroy(conf);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("librdkafka does not accept the value of option \"%s\"", name)));
}

/*
 * Set those of a list, from the options.
 */
static void
set_options(rd_kafka_conf_t *conf, List *options, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
		set_property(conf, names[i], oi_sink_option(options, names[i]));
}

/*
 * Set what our producers have in common.  Without transactions a message that
 * is not taken is the end of the handle: none of its partition, so none of its
 * key, may come behind it.
 */
static void
set_producer(rd_kafka_conf_t *conf, const KafkaSink *sink)
{
	const char *timeout = oi_sink_option(sink->state->options, "transaction.timeout.ms");

	for (int i = 0; i < (int) lengthof(of_producers); i++)
		set_property(conf, of_producers[i][0], of_producers[i][1]);
	set_property(conf, "transaction.timeout.ms", timeout);
	if (sink->transactions)
		set_property(conf, "transactional.id", sink->state->identity);
	else
		set_property(conf, "enable.gapless.guarantee", "true");
	rd_kafka_conf_set_dr_msg_cb(conf, take_answer);
}

/*
 * A handle.  Options for producers are not for readers, but librdkafka takes them
 * and says so in its log, which nobody reads.
 */
rd_kafka_t *
kafka_new_handle(KafkaSink *sink, rd_kafka_type_t type)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		said[256] = "";
	rd_kafka_t *handle;
	sigset_t	all;
	sigset_t	outer;

	for (int i = 0; i < (int) lengthof(fixed); i++)
		set_property(conf, fixed[i][0], fixed[i][1]);
	if (type == RD_KAFKA_PRODUCER)
		set_producer(conf, sink);
	for (int i = 0; type == RD_KAFKA_CONSUMER && i < (int) lengthof(of_readers); i++)
		set_property(conf, of_readers[i][0], of_readers[i][1]);
	set_options(conf, sink->state->options, server_properties, lengthof(server_properties));
	set_options(conf, sink->state->user_options, user_properties, lengthof(user_properties));
	rd_kafka_conf_set_opaque(conf, sink->inbox);
	rd_kafka_conf_set_log_cb(conf, take_complaint);
	rd_kafka_conf_set_connect_cb(conf, connect_broker);
	rd_kafka_conf_set_error_cb(conf, take_error);

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &outer);
	handle = rd_kafka_new(type, conf, said, sizeof(said));
	sigprocmask(SIG_SETMASK, &outer, NULL);
	if (handle == NULL)
	{
		rd_kafka_conf_destroy(conf);
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("could not make a handle of librdkafka: %s", said)));
	}
	return handle;
}

/*
 * In a thread: let go of handles.  Messages that are left in them are given up.
 */
static void *
end_handles(void *arg)
{
	Ending	   *ending = arg;

	if (ending->topic != NULL)
		rd_kafka_topic_destroy(ending->topic);
	if (ending->reader != NULL)
		rd_kafka_destroy_flags(ending->reader, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	if (ending->producer != NULL)
	{
		rd_kafka_purge(ending->producer,
					   RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
		rd_kafka_destroy_flags(ending->producer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	}
	free(ending);
	return NULL;
}

/*
 * Wait for the thread that lets go of handles, for so many ms at most.  One of
 * librdkafka's may be waiting for a name server.
 */
static bool
join_ending(pthread_t thread, int ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (ms % 1000) * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

/*
 * Have handles ended, in a thread, and wait for that; not for ever.  One that was
 * left behind is waited for the next time.
 */
static void
end_in_thread(Ending *ending, int ms)
{
	static pthread_t left;
	static bool is_left = false;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	outer;

	if (is_left)
		is_left = !join_ending(left, ms);
	if (ending == NULL)
		return;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &outer);
	if (pthread_create(&thread, NULL, end_handles, ending) != 0)
		end_handles(ending);
	else if (!join_ending(thread, ms))
	{
		if (is_left)
			pthread_detach(left);
		left = thread;
		is_left = true;
	}
	sigprocmask(SIG_SETMASK, &outer, NULL);
}

/*
 * Let go of the reader of the state topic, and of the producer too if that is said.
 * What it was given and has no answer is unknown from then on.
 */
void
kafka_close(KafkaSink *sink, KafkaEnd end)
{
	int			ms = end == KAFKA_END_PROCESS ? END_TIMEOUT : KAFKA_SLICE * 4;
	Ending	   *ending = NULL;

	if (sink->reader != NULL || (sink->producer != NULL && end != KAFKA_END_READER))
		ending = calloc(1, sizeof(Ending));
	if (ending != NULL)
	{
		ending->reader = sink->reader;
		ending->topic = sink->state_topic;
		sink->reader = NULL;
		sink->state_topic = NULL;
	}
	if (ending != NULL && end != KAFKA_END_READER)
	{
		ending->producer = sink->producer;
		sink->producer = NULL;
		sink->inbox->round++;
		if (sink->topics != NULL)
			hash_destroy(sink->topics);
		sink->topics = NULL;
		sink->new_topics = false;
	}
	end_in_thread(ending, ms);
}

/*
 * Look at interrupts, and raise an error if time is up.
 */
void
kafka_check_time(const KafkaSink *sink, TimestampTz deadline, const char *what)
{
	CHECK_FOR_INTERRUPTS();
	if (GetCurrentTimestamp() >= deadline)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("could not %s in time%s", what, kafka_complaint(sink))));
}

/*
 * Raise the error that librdkafka has; it is destroyed.  Where another producer has
 * taken over, that is said: it is a former primary's last word.
 */
void
kafka_report(const KafkaSink *sink, rd_kafka_error_t *error, const char *what)
{
	rd_kafka_resp_err_t code = rd_kafka_error_code(error);
	char	   *said = pstrdup(rd_kafka_error_string(error));
	char		fatal[256] = "";

	rd_kafka_error_destroy(error);
	if (code == RD_KAFKA_RESP_ERR__FATAL && sink->producer != NULL)
		code = rd_kafka_fatal_error(sink->producer, fatal, sizeof(fatal));
	if (code == RD_KAFKA_RESP_ERR__FENCED || code == RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH ||
		code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another producer has taken over transactional id \"%s\": %s",
						sink->state->identity, fatal[0] ? fatal : said),
				 errhint("Is this the former primary of one that was promoted?")));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not %s: %s%s", what, fatal[0] ? fatal : said, kafka_complaint(sink))));
}
