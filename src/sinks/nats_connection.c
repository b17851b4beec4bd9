/*-------------------------------------------------------------------------
 *
 * nats_connection.c
 *		The sink "nats": its connection.
 *
 * All of this runs in the sink's thread or in those of the library, and calls
 * nothing of the server's.  The library starts its threads from ours, so they have
 * all signals blocked as well.
 *
 * The library does not connect again by itself: what was under way on the old
 * connection would be unknown, and is for the worker to send again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nats_sink.h"

/*
 * ms for connecting to one server, at most: nothing can end that, and the worker
 * must be able to end
 */
#define CONNECT_MOST 2500

/* ms that a write may wait for room in the socket */
#define WRITE_MOST 1000

/* ms between pings of the server, and how many may go unanswered */
#define PING_INTERVAL 5000
#define PINGS_MOST 2

/* ms that a question about a stream may take */
#define QUESTION_MOST 2000

/*
 * Milliseconds of a clock that only goes forward.
 */
int64_t
nats_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Called by the library: the connection is closed.
 */
static void
note_closed(natsConnection * connection, void *arg)
{
	NatsSink   *sink = arg;

	pthread_mutex_lock(&sink->mutex);
	sink->closed = true;
	pthread_cond_signal(&sink->heard);
	pthread_mutex_unlock(&sink->mutex);
}

/*
 * Called by the library: sign what the server asks to have signed.
 */
static natsStatus
sign(char **error, unsigned char **signature, int *length, const char *nonce, void *arg)
{
	NatsSink   *sink = arg;

	return nats_Sign(sink->nkey_seed, nonce, signature, length);
}

/*
 * Called by the library: a copy of the token.
 */
static natsStatus
give_jwt(char **jwt, char **error, void *arg)
{
	NatsSink   *sink = arg;

	*jwt = strdup(sink->jwt);
	return *jwt ? NATS_OK : NATS_NO_MEMORY;
}

/*
 * Who we are.
 */
static natsStatus
set_identity(NatsSink *sink, natsOptions * options)
{
	if (sink->jwt != NULL)
		return natsOptions_SetUserCredentialsCallbacks(options, give_jwt, sink, sign, sink);
	if (sink->nkey != NULL)
		return natsOptions_SetNKey(options, sink->nkey, sign, sink);
	if (sink->token != NULL)
		return natsOptions_SetToken(options, sink->token);
	if (sink->user != NULL)
		return natsOptions_SetUserInfo(options, sink->user, sink->password);
	return NATS_OK;
}

/*
 * TLS, with a certificate that is verified, and is for this host.
 */
static natsStatus
set_tls(NatsSink *sink, natsOptions * options, const char *host)
{
	natsStatus	status = natsOptions_SetSecure(options, true);

	if (status == NATS_OK)
		status = natsOptions_SkipServerVerification(options, false);
	if (status == NATS_OK)
		status = natsOptions_SetExpectedHostname(options, host);
	if (status == NATS_OK && sink->ca_file != NULL)
		status = natsOptions_LoadCATrustedCertificates(options, sink->ca_file);
	if (status == NATS_OK && sink->cert_file != NULL)
		status = natsOptions_LoadCertificatesChain(options, sink->cert_file, sink->key_file);
	return status;
}

/*
 * The URL of one of the servers, with an address in place of the host's name: the library
 * must not look up for itself where that leads.
 */
static void
make_url(NatsSink *sink, int which, const struct sockaddr *address, const char *text,
		 char *url, size_t size)
{
	const char *given = strstr(sink->urls[which], "://") + 3;
	const char *rest = given + strlen(sink->hosts[which]) + (given[0] == '[' ? 2 : 0);
	bool		v6 = address->sa_family == AF_INET6;

	snprintf(url, size, "%s://%s%s%s%s", sink->tls ? "tls" : "nats",
			 v6 ? "[" : "", text, v6 ? "]" : "", rest);
}

/*
 * Options for a connection to one of the servers, by that URL.  Others, of which it
 * would tell, are not for us: nobody has allowed them.
 */
static natsStatus
make_options(NatsSink *sink, int which, const char *url, natsOptions * *options)
{
	natsStatus	status = natsOptions_Create(options);

	if (status == NATS_OK)
		status = natsOptions_SetURL(*options, url);
	if (status == NATS_OK)
		status = natsOptions_SetIgnoreDiscoveredServers(*options, true);
	if (status == NATS_OK)
		status = natsOptions_SetName(*options, sink->name);
	if (status == NATS_OK)
		status = natsOptions_SetAllowReconnect(*options, false);
	if (status == NATS_OK)
		status = natsOptions_SetTimeout(*options, Min(sink->timeout, CONNECT_MOST));
	if (status == NATS_OK)
		status = natsOptions_SetWriteDeadline(*options, WRITE_MOST);
	if (status == NATS_OK)
		status = natsOptions_SetPingInterval(*options, PING_INTERVAL);
	if (status == NATS_OK)
		status = natsOptions_SetMaxPingsOut(*options, PINGS_MOST);
	if (status == NATS_OK)
		status = natsOptions_SetClosedCB(*options, note_closed, sink);
	if (status == NATS_OK)
		status = set_identity(sink, *options);
	if (status == NATS_OK && sink->tls)
		status = set_tls(sink, *options, sink->hosts[which]);
	return status;
}

/*
 * Set up JetStream on a connection.
 */
static natsStatus
set_up_stream_context(NatsSink *sink)
{
	jsOptions	options;
	natsStatus	status = jsOptions_Init(&options);

	options.Wait = QUESTION_MOST;
	options.PublishAsync.MaxPending = sink->max_in_flight + 1;
	options.PublishAsync.AckHandler = nats_acknowledged;
	options.PublishAsync.AckHandlerClosure = sink;
	if (status == NATS_OK)
		status = natsConnection_JetStream(&sink->stream_context, sink->connection, &options);
	return status;
}

/*
 * Is this to come to an end?
 */
static bool
hurried(NatsSink *sink)
{
	bool		hurry;

	pthread_mutex_lock(&sink->mutex);
	hurry = sink->hurry;
	pthread_mutex_unlock(&sink->mutex);
	return hurry;
}

/*
 * There is no connection to a server: the job says why.
 */
static void
note_failure(NatsSink *sink, NatsJob *job, int which, const char *why, const char *detail)
{
	snprintf(job->error, sizeof(job->error), "could not connect to server %s: %s%s%s",
			 sink->urls[which], why, detail ? ": " : "", detail ? detail : "");
}

/*
 * Make a connection to an address of one of the servers.
 */
static natsStatus
try_address(NatsSink *sink, NatsJob *job, int which, const struct sockaddr *address)
{
	natsOptions *options = NULL;
	natsStatus	status;
	char text[	NI_MAXHOST];
	char		url[NI_MAXHOST + 64];

	if (!oi_address_allowed(sink->allowed, address) ||
		!oi_address_text(address, text, sizeof(text)))
	{
		note_failure(sink, job, which, OI_ADDRESS_REFUSED, NULL);
		return NATS_NOT_PERMITTED;
	}
	make_url(sink, which, address, text, url, sizeof(url));
	sink->closed = false;
	status = make_options(sink, which, url, &options);
	if (status == NATS_OK)
		status = natsConnection_Connect(&sink->connection, options);
	if (status != NATS_OK)
		note_failure(sink, job, which, natsStatus_GetText(status), nats_GetLastError(NULL));
	natsOptions_Destroy(options);
	return status;
}

/*
 * The same, to the first of its addresses that takes it.
 */
static natsStatus
try_server(NatsSink *sink, NatsJob *job, int which)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	natsStatus	status = NATS_ERR;
	int			failed = getaddrinfo(sink->hosts[which], NULL, &hints, &list);

	if (failed != 0)
	{
		note_failure(sink, job, which, gai_strerror(failed), NULL);
		return status;
	}
	for (struct addrinfo *one = list; one != NULL && status != NATS_OK && !hurried(sink);
		 one = one->ai_next)
		status = try_address(sink, job, which, one->ai_addr);
	freeaddrinfo(list);
	return status;
}

/*
 * Make a connection to the first of the servers that takes it.  False: the job says why
 * there is none.
 */
bool
nats_connect(NatsSink *sink, NatsJob *job)
{
	natsStatus	status = NATS_ERR;

	nats_disconnect(sink);
	sink->used = true;
	for (int i = 0; sink->urls[i] != NULL && status != NATS_OK && !hurried(sink); i++)
		status = try_server(sink, job, i);
	if (status == NATS_OK)
		status = set_up_stream_context(sink);
	if (status != NATS_OK)
	{
		nats_disconnect(sink);
		return false;
	}
	job->error[0] = '\0';
	if (sink->stream != NULL)
		nats_look_at_stream(sink, job, sink->stream);
	return true;
}

/*
 * Let go of the connection.
 */
void
nats_disconnect(NatsSink *sink)
{
	jsCtx_Destroy(sink->stream_context);
	sink->stream_context = NULL;
	natsConnection_Destroy(sink->connection);
	sink->connection = NULL;
}

/*
 * Look once at how long a stream remembers the ids of messages.  Who may publish
 * need not have the right to ask: then nothing is said.
 */
void
nats_look_at_stream(NatsSink *sink, NatsJob *job, const char *stream)
{
	jsStreamInfo *info = NULL;
	int64_t		window;

	for (int i = 0; i < sink->nknown; i++)
		if (strcmp(sink->known[i], stream) == 0)
			return;
	if (sink->nknown == NATS_STREAMS_KNOWN ||
		js_GetStreamInfo(&info, sink->stream_context, stream, NULL, NULL) != NATS_OK)
		return;
	window = info->Config->Duplicates / 1000000;
	snprintf(sink->known[sink->nknown++], NATS_STREAM_NAME, "%s", stream);
	if (window < sink->longest_wait)
	{
		snprintf(job->too_short.stream, NATS_STREAM_NAME, "%s", stream);
		job->too_short.window = window;
	}
	jsStreamInfo_Destroy(info);
}

/*
 * While there is nothing to deliver: let go of a connection that was closed.
 */
void
nats_idle(void *arg)
{
	NatsSink   *sink = arg;

	if (sink->connection != NULL && natsConnection_IsClosed(sink->connection))
		nats_disconnect(sink);
}
