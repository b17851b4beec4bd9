/*-------------------------------------------------------------------------
 *
 * nats.c
 *		Publishing with libnats to JetStream, asynchronously.
 *
 *-------------------------------------------------------------------------
 */
#include <nats/nats.h>
#include <stdint.h>

#include "bare.h"

#define TIMEOUT	30000			/* ms */

static natsConnection *connection;
static jsCtx *stream_context;

static const char *const names[ATTRIBUTES] = {
	"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-partitionkey",
	"ce-sequence", "Content-Type"
};

/* Ends where something went wrong. */
static void
check(natsStatus status, const char *what)
{
	if (status != NATS_OK)
		die("could not %s: %s", what, natsStatus_GetText(status));
}

/* Called by the library: a message was not stored. */
static void
refused(jsCtx *js, jsPubAckErr *error, void *closure)
{
	(void) js;
	(void) closure;
	die("refused: %s", error->ErrText ? error->ErrText : natsStatus_GetText(error->Err));
}

void
publisher_open(void)
{
	jsOptions	settings;

	check(natsConnection_ConnectTo(&connection, options.target), "connect");
	(void) jsOptions_Init(&settings);
	settings.PublishAsync.MaxPending = options.in_flight;
	settings.PublishAsync.ErrHandler = refused;
	settings.PublishAsync.StallWait = TIMEOUT;
	check(natsConnection_JetStream(&stream_context, connection, &settings), "use JetStream");
}

/* Hands over a message. */
static void
send_one(const Event *event)
{
	jsPubOptions settings;
	natsMsg    *message;
	natsStatus	status;

	(void) jsPubOptions_Init(&settings);
	settings.MsgId = event->value[ID];
	status = natsMsg_Create(&message, options.topic, NULL, event->payload, (int) event->payload_size);
	for (int i = 0; i < ATTRIBUTES && status == NATS_OK; i++)
		status = natsMsgHeader_Set(message, names[i], event->value[i]);
	if (status == NATS_OK)
		status = js_PublishMsgAsync(stream_context, &message, &settings);
	check(status, "publish");
	natsMsg_Destroy(message);
}

void
publish(const Event *events, int n)
{
	jsPubOptions settings;

	(void) jsPubOptions_Init(&settings);
	settings.MaxWait = TIMEOUT;
	for (int i = 0; i < n; i++)
		send_one(&events[i]);
	check(js_PublishAsyncComplete(stream_context, &settings), "have all acknowledged");
}
