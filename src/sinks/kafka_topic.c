/*-------------------------------------------------------------------------
 *
 * kafka_topic.c
 *		The state topic: that it is there, and is as it has to be.
 *
 * What is in it is told in kafka_state.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_sink.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* the policy by which the last record of each key stays */
#define COMPACT "compact"

/* of the topic that is created: how much of it there is beside what counts */
#define SEGMENT_BYTES "16777216"

/* ms that a request of an administrator's waits for its answer, before it is made again */
#define ADMIN_TIMEOUT 900

/*
 * Raise the error of something that does not work with the state topic.
 */
void
kafka_report_topic(const KafkaSink *sink, const char *what, rd_kafka_resp_err_t code)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not %s topic \"%s\": %s", what, sink->state_name, rd_kafka_err2str(code))));
}

/*
 * Is an error one that waiting does not help against?
 */
bool
kafka_is_final(rd_kafka_resp_err_t code)
{
	KafkaVerdict verdict = kafka_verdict(code);

	return verdict == KAFKA_REJECTED || verdict == KAFKA_REFUSED;
}

/*
 * Create the state topic.  That somebody else did meanwhile is fine.
 */
static void
create_topic(KafkaSink *sink)
{
	char		said[256] = "";
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(sink->state_name, 1, -1, said, sizeof(said));
	rd_kafka_queue_t *queue = rd_kafka_queue_new(sink->reader);
	rd_kafka_event_t *event = NULL;

	if (topic != NULL)
	{
		rd_kafka_NewTopic_set_config(topic, "cleanup.policy", COMPACT);
		rd_kafka_NewTopic_set_config(topic, "segment.bytes", SEGMENT_BYTES);
		rd_kafka_CreateTopics(sink->reader, &topic, 1, NULL, queue);

		/*
		 * it has its answer, or will be looked for again; no interrupt may
		 * leave these
		 */
		event = rd_kafka_queue_poll(queue, ADMIN_TIMEOUT);
		rd_kafka_NewTopic_destroy(topic);
	}
	if (event != NULL)
	{
		const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(event);
		size_t		n = 0;
		const rd_kafka_topic_result_t **topics = result ? rd_kafka_CreateTopics_result_topics(result, &n) : NULL;

		if (n == 1 && rd_kafka_topic_result_error(topics[0]) != RD_KAFKA_RESP_ERR_NO_ERROR &&
			rd_kafka_topic_result_error(topics[0]) != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
			snprintf(said, sizeof(said), "%s: %s",
					 rd_kafka_err2str(rd_kafka_topic_result_error(topics[0])),
					 rd_kafka_topic_result_error_string(topics[0]));
		rd_kafka_event_destroy(event);
	}
	rd_kafka_queue_destroy(queue);
	if (said[0] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not create topic \"%s\": %s", sink->state_name, said),
				 errhint("Create it with cleanup.policy=compact, or have option \"state_topic\" name another one.")));
}

/*
 * No broker lets us in: to go on trying would change nothing.
 */
OI_NORETURN static void
report_shut_out(const KafkaSink *sink)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
			 errmsg("could not connect to Kafka: %s%s", rd_kafka_err2str(sink->inbox->shut_out), kafka_complaint(sink))));
}

/*
 * Does the state topic exist?  An error of the way there counts as not known, and
 * is waited for.
 */
static bool
topic_exists(KafkaSink *sink, TimestampTz deadline)
{
	while (true)
	{
		const rd_kafka_metadata_t *metadata = NULL;
		rd_kafka_resp_err_t code = rd_kafka_metadata(sink->reader, 0, sink->state_topic, &metadata, KAFKA_SLICE);

		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			code = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN;
			rd_kafka_metadata_destroy(metadata);
			if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
				return true;
			if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
				return false;
			if (kafka_is_final(code))
				kafka_report_topic(sink, "use", code);
		}
		(void) rd_kafka_poll(sink->reader, KAFKA_SLICE / 4);
		if (sink->inbox->all_down && sink->inbox->shut_out != RD_KAFKA_RESP_ERR_NO_ERROR)
			report_shut_out(sink);
		kafka_check_time(sink, deadline, "reach Kafka");
	}
}

/*
 * What the answer to a request for the topic's configuration says of a property,
 * or NULL: nothing, as to who may not ask.
 */
static const char *
property_in(rd_kafka_event_t *event, const char *name)
{
	size_t		n = 0;
	const rd_kafka_DescribeConfigs_result_t *result = rd_kafka_event_DescribeConfigs_result(event);
	const rd_kafka_ConfigResource_t **topics = result ? rd_kafka_DescribeConfigs_result_resources(result, &n) : NULL;
	const rd_kafka_ConfigEntry_t **entries;

	if (topics == NULL || n != 1)
		return NULL;
	entries = rd_kafka_ConfigResource_configs(topics[0], &n);
	for (size_t i = 0; i < n; i++)
		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0)
			return rd_kafka_ConfigEntry_value(entries[i]);
	return NULL;
}

/*
 * Ask for the configuration of the state topic, and copy its clean-up policy.  False:
 * there was no answer in time.  No interrupt may leave what is made here.
 */
static bool
ask_policy(KafkaSink *sink, char *policy, size_t size)
{
	char		said[256];
	rd_kafka_ConfigResource_t *topic = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, sink->state_name);
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(sink->reader, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(sink->reader);
	rd_kafka_event_t *event;
	const char *value;
	bool		answered;

	(void) rd_kafka_AdminOptions_set_request_timeout(options, ADMIN_TIMEOUT, said, sizeof(said));
	rd_kafka_DescribeConfigs(sink->reader, &topic, 1, options, queue);
	event = rd_kafka_queue_poll(queue, ADMIN_TIMEOUT);
	answered = event != NULL && rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR;
	value = answered ? property_in(event, "cleanup.policy") : NULL;
	strlcpy(policy, value ? value : COMPACT, size);
	if (event != NULL)
		rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_ConfigResource_destroy(topic);
	return answered;
}

/*
 * A topic that is not compacted, or not only that, forgets markers when they are old.
 * After that deliveries would be made a second time, so it is not used.
 */
static void
check_policy(KafkaSink *sink, TimestampTz deadline)
{
	char		policy[64];

	while (!ask_policy(sink, policy, sizeof(policy)))
		kafka_check_time(sink, deadline, psprintf("look at the configuration of topic \"%s\"", sink->state_name));
	if (strcmp(policy, COMPACT) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" has cleanup.policy \"%s\", and would forget what was delivered: \"%s\" is needed",
						sink->state_name, policy, COMPACT),
				 errhint("Alter the topic, or have option \"state_topic\" name another one.")));
}

/*
 * Open the state topic for reading.
 */
void
kafka_open_reader(KafkaSink *sink, TimestampTz deadline)
{
	sink->inbox->shut_out = RD_KAFKA_RESP_ERR_NO_ERROR;
	sink->inbox->all_down = false;
	sink->reader = kafka_new_handle(sink, RD_KAFKA_CONSUMER);
	sink->state_topic = rd_kafka_topic_new(sink->reader, sink->state_name, NULL);
	if (sink->state_topic == NULL)
		kafka_report_topic(sink, "use", rd_kafka_last_error());
	while (!topic_exists(sink, deadline))
	{
		create_topic(sink);
		kafka_check_time(sink, deadline, psprintf("create topic \"%s\"", sink->state_name));
	}
	check_policy(sink, deadline);
}
