/*-------------------------------------------------------------------------
 *
 * rabbitmq_publish.c
 *		The sink "rabbitmq": publishing a batch and waiting for the confirms.
 *
 * All of this runs in the sink's thread, and calls nothing of the server's.
 *
 * Messages go out as fast as the window lets them, each of a key when the one
 * before it was confirmed.  The broker numbers them on the channel, in the order in
 * which they were sent, and confirms by these tags: one of them, or all up to
 * one.  A message that no queue got comes back before its confirm, and is known
 * by its message id.
 *
 * While the broker says that it is short of memory or disk, nothing is sent: it
 * does not read, so this thread would be stuck in a full socket.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/time.h>

#include "rabbitmq_sink.h"

/* ms to wait for a frame before other things are looked at */
#define GLANCE 100

/* messages to send before the broker's answers are looked at */
#define BURST 64

/*
 * Say why the delivery ends, and let go of the connection if it is in doubt.
 */
static void
give_up(RabbitJob *job, bool disconnect, const char *why)
{
	if (job->error[0] == '\0')
		snprintf(job->error, sizeof(job->error), "%s", why);
	if (disconnect)
		rabbit_disconnect(job->sink);
}

/*
 * Is there a message to send, and room for it?
 */
static bool
may_send(RabbitJob *job)
{
	RabbitMessage *message;

	if (!oi_keys_ready(&job->queue) || job->sink->blocked)
		return false;
	message = &job->messages[job->queue.ready[job->queue.first]];
	return job->in_flight == 0 ||
		(job->in_flight < job->sink->max_in_flight &&
		 job->bytes_in_flight + message->size <= RABBIT_BYTES_IN_FLIGHT);
}

/*
 * Send one.
 */
static void
send_next(RabbitJob *job)
{
	RabbitSink *sink = job->sink;
	int			which = oi_keys_take(&job->queue);
	RabbitMessage *message = &job->messages[which];
	int			status;

	if (message->unfit)
		return;
	status = amqp_basic_publish(sink->connection, RABBIT_CHANNEL,
								amqp_cstring_bytes(sink->exchange),
								amqp_cstring_bytes(message->routing_key),
								1, 0, &message->properties, message->body);
	message->fate = RABBIT_SENT;
	if (job->in_flight == 0)
		job->heard = rabbit_now();
	job->sent[job->nsent++] = which;
	job->in_flight++;
	job->bytes_in_flight += message->size;
	sink->next_tag++;
	if (status != AMQP_STATUS_OK)
		give_up(job, true, amqp_error_string2(status));
}

/*
 * A message has its confirm.
 */
static void
settle(RabbitJob *job, int which, bool positive)
{
	RabbitMessage *message = &job->messages[which];

	if (message->fate != RABBIT_SENT && message->fate != RABBIT_RETURNED)
		return;
	if (!positive)
		message->fate = RABBIT_REFUSED;
	else if (message->fate == RABBIT_RETURNED)
		message->fate = RABBIT_UNROUTABLE;
	else
		message->fate = RABBIT_CONFIRMED;
	job->in_flight--;
	job->bytes_in_flight -= message->size;
	job->heard = rabbit_now();
	if (message->fate == RABBIT_CONFIRMED)
		oi_keys_delivered(&job->queue, which);
}

/*
 * A confirm, of one tag or of all up to it.  Tags of earlier deliveries on this
 * connection are of no interest any more.
 */
static void
note_confirm(RabbitJob *job, uint64_t tag, bool multiple, bool positive)
{
	int			last;

	if (multiple && tag == 0)
		tag = job->sink->next_tag - 1;
	if (tag < job->first_tag || tag >= job->first_tag + job->nsent)
		return;
	last = (int) (tag - job->first_tag);
	for (int i = multiple ? job->settled : last; i <= last; i++)
		settle(job, job->sent[i], positive);
	while (job->settled < job->nsent && job->messages[job->sent[job->settled]].fate >= RABBIT_CONFIRMED)
		job->settled++;
}

/*
 * A message comes back: no queue got it.
 */
static void
note_return(RabbitJob *job, const amqp_basic_return_t * returned)
{
	char		answer[sizeof(job->messages[0].answer)];
	amqp_message_t back;
	amqp_rpc_reply_t reply;
	amqp_bytes_t id;

	snprintf(answer, sizeof(answer), "%d %.*s", returned->reply_code,
			 (int) Min(returned->reply_text.len, 50), (const char *) returned->reply_text.bytes);
	reply = amqp_read_message(job->sink->connection, RABBIT_CHANNEL, &back, 0);
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
	{
		give_up(job, true, "connection was lost within a returned message");
		return;
	}
	id = back.properties.message_id;
	for (int i = job->settled; i < job->nsent; i++)
	{
		RabbitMessage *message = &job->messages[job->sent[i]];

		if (message->fate == RABBIT_SENT && id.len == message->properties.message_id.len &&
			memcmp(id.bytes, message->properties.message_id.bytes, id.len) == 0)
		{
			message->fate = RABBIT_RETURNED;
			strcpy(message->answer, answer);
			break;
		}
	}
	amqp_destroy_message(&back);
}

/*
 * Take in one frame, waiting for it for so many ms.  False: there was none.
 */
static bool
take_frame(RabbitJob *job, int wait)
{
	RabbitSink *sink = job->sink;
	struct timeval timeout = {.tv_usec = wait * 1000};
	amqp_frame_t frame;
	int			status;

	amqp_maybe_release_buffers(sink->connection);
	status = amqp_simple_wait_frame_noblock(sink->connection, &frame, &timeout);
	if (status == AMQP_STATUS_TIMEOUT)
		return false;
	if (status != AMQP_STATUS_OK)
	{
		give_up(job, true, amqp_error_string2(status));
		return false;
	}
	if (frame.frame_type == AMQP_FRAME_METHOD &&
		frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
	{
		amqp_basic_ack_t *ack = frame.payload.method.decoded;

		note_confirm(job, ack->delivery_tag, ack->multiple, true);
	}
	else if (frame.frame_type == AMQP_FRAME_METHOD &&
			 frame.payload.method.id == AMQP_BASIC_NACK_METHOD)
	{
		amqp_basic_nack_t *nack = frame.payload.method.decoded;

		note_confirm(job, nack->delivery_tag, nack->multiple, false);
	}
	else if (frame.frame_type == AMQP_FRAME_METHOD &&
			 frame.payload.method.id == AMQP_BASIC_RETURN_METHOD)
		note_return(job, frame.payload.method.decoded);
	else
		return rabbit_note_frame(sink, &frame, job);
	return sink->connection != NULL;
}

/*
 * Has the broker been silent for too long?  A blocked connection is not in doubt:
 * it is kept, and what was sent on it may still be confirmed.
 */
static bool
is_silent(RabbitJob *job)
{
	char		why[sizeof(job->error)];

	if (rabbit_now() - job->heard < job->sink->timeout)
		return false;
	if (job->sink->blocked)
		snprintf(why, sizeof(why), "broker takes no messages for now (%s)",
				 job->sink->blocked_reason);
	else
		snprintf(why, sizeof(why), "broker gave no confirm for %d ms", job->sink->timeout);
	give_up(job, false, why);
	return true;
}

/*
 * Publish the messages of a job, and wait for their confirms, until all are
 * settled, the broker is silent or gone, or there is no more time.
 */
void
rabbit_publish(void *arg)
{
	RabbitJob  *job = arg;
	RabbitSink *sink = job->sink;

	rabbit_idle(sink);
	if (sink->connection == NULL && !rabbit_connect(sink, job))
		return;
	job->first_tag = sink->next_tag;
	job->heard = rabbit_now();
	while (sink->connection != NULL && (job->in_flight > 0 || oi_keys_ready(&job->queue)))
	{
		for (int i = 0; i < BURST && sink->connection != NULL && may_send(job); i++)
			send_next(job);
		if (sink->connection == NULL || rabbit_hurried(sink) || is_silent(job))
			break;
		if (take_frame(job, may_send(job) ? 0 : GLANCE))
			while (sink->connection != NULL && take_frame(job, 0))
				;
	}
}
