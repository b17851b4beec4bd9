/*-------------------------------------------------------------------------
 *
 * rabbitmq.c
 *		Publishing with librabbitmq: persistent, mandatory, with confirms.
 *
 *-------------------------------------------------------------------------
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <sys/time.h>

#include "bare.h"

#define CHANNEL		1
#define FRAME_MAX	131072
#define HEARTBEAT	10
#define PERSISTENT	2

/* messages to send before answers are looked for */
#define BURST		64

static amqp_connection_state_t connection;
static uint64_t sent;
static uint64_t confirmed;		/* all up to this tag */
static bool early[65536];		/* tags above it that are, by their lower bits */

static const char *const names[ATTRIBUTES] = {
	"cloudEvents:specversion", "cloudEvents:id", "cloudEvents:source", "cloudEvents:type",
	"cloudEvents:subject", "cloudEvents:time", "cloudEvents:partitionkey", "cloudEvents:sequence"
};

/* Ends where a request failed. */
static void
check(amqp_rpc_reply_t reply, const char *what)
{
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		die("could not %s", what);
}

void
publisher_open(void)
{
	amqp_socket_t *socket;

	if (options.in_flight >= (int) (sizeof(early) / 2))
		die("too many events in flight");
	connection = amqp_new_connection();
	socket = amqp_tcp_socket_new(connection);
	if (socket == NULL || amqp_socket_open(socket, "127.0.0.1", port_of_target()) != AMQP_STATUS_OK)
		die("could not connect to port %d", port_of_target());
	check(amqp_login(connection, "/", 0, FRAME_MAX, HEARTBEAT, AMQP_SASL_METHOD_PLAIN, "guest", "guest"),
		  "log in");
	(void) amqp_channel_open(connection, CHANNEL);
	check(amqp_get_rpc_reply(connection), "open a channel");
	(void) amqp_confirm_select(connection, CHANNEL);
	check(amqp_get_rpc_reply(connection), "have confirms");
}

/* Sends a message. */
static void
send_one(const Event *event)
{
	amqp_table_entry_t entries[ATTRIBUTES];
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_APP_ID_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_TYPE_FLAG,
		.delivery_mode = PERSISTENT
	};
	amqp_bytes_t body = {.len = event->payload_size,.bytes = (void *) event->payload};

	for (int i = 0; i < DATACONTENTTYPE; i++)
	{
		entries[i].key = amqp_cstring_bytes(names[i]);
		entries[i].value.kind = AMQP_FIELD_KIND_UTF8;
		entries[i].value.value.bytes = amqp_cstring_bytes(event->value[i]);
	}
	properties.headers.num_entries = DATACONTENTTYPE;
	properties.headers.entries = entries;
	properties.message_id = amqp_cstring_bytes(event->value[ID]);
	properties.timestamp = event->created_at;
	properties.app_id = amqp_cstring_bytes("order_idempotency");
	properties.content_type = amqp_cstring_bytes(event->value[DATACONTENTTYPE]);
	properties.type = amqp_cstring_bytes(event->value[TYPE]);
	if (amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, amqp_cstring_bytes(options.topic), 1, 0,
						   &properties, body) != AMQP_STATUS_OK)
		die("could not publish");
	sent++;
}

/* Takes one frame, waiting for so many ms.  False: there was none. */
static bool
take_frame(int wait)
{
	struct timeval timeout = {.tv_sec = wait / 1000};
	amqp_frame_t frame;
	amqp_basic_ack_t *ack;
	int			status;

	amqp_maybe_release_buffers(connection);
	status = amqp_simple_wait_frame_noblock(connection, &frame, &timeout);
	if (status == AMQP_STATUS_TIMEOUT && wait == 0)
		return false;
	if (status != AMQP_STATUS_OK)
		die("no answer: %s", amqp_error_string2(status));
	if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
		die("a message was refused");
	ack = frame.payload.method.decoded;
	if (ack->multiple)
		confirmed = ack->delivery_tag > confirmed ? ack->delivery_tag : confirmed;
	else
		early[ack->delivery_tag % sizeof(early)] = true;
	while (early[(confirmed + 1) % sizeof(early)])
		early[++confirmed % sizeof(early)] = false;
	return true;
}

void
publish(const Event *events, int n)
{
	int			at = 0;

	while (at < n || confirmed < sent)
	{
		for (int i = 0; i < BURST && at < n && sent - confirmed < (uint64_t) options.in_flight; i++)
			send_one(&events[at++]);
		if (take_frame(at < n && sent - confirmed < (uint64_t) options.in_flight ? 0 : 30000))
			while (take_frame(0))
				;
	}
}
