/*-------------------------------------------------------------------------
 *
 * rabbitmq_connection.c
 *		The sink "rabbitmq": its connection.
 *
 * All of this but rabbit_break() runs in the sink's thread, and calls nothing of
 * the server's.
 *
 * A connection has one channel, in the mode of publisher confirms.  It is kept
 * from one delivery to the next.  While there is none, the thread looks at it
 * once a second: it answers heartbeats, and notices an end, so that the next
 * delivery begins with a new connection instead of failing on the old one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "rabbitmq_sink.h"

/* bytes in a frame, as RabbitMQ proposes */
#define FRAME_MAX 131072

/* ms until a flag is looked at */
#define GLANCE 100

/*
 * Milliseconds of a clock that only goes forward.
 */
int64_t
rabbit_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Is this to come to an end?
 */
bool
rabbit_hurried(RabbitSink *sink)
{
	bool		hurry;

	pthread_mutex_lock(&sink->mutex);
	hurry = sink->hurry;
	pthread_mutex_unlock(&sink->mutex);
	return hurry;
}

/*
 * Keep the socket where rabbit_break() finds it.
 */
static void
set_fd(RabbitSink *sink, int fd)
{
	pthread_mutex_lock(&sink->mutex);
	sink->fd = fd;
	pthread_mutex_unlock(&sink->mutex);
}

/*
 * Not in the thread: have whatever it does with the connection fail.
 */
void
rabbit_break(RabbitSink *sink)
{
	pthread_mutex_lock(&sink->mutex);
	if (sink->fd >= 0)
		(void) shutdown(sink->fd, SHUT_RDWR);
	pthread_mutex_unlock(&sink->mutex);
}

/*
 * Let go of the connection, without a goodbye that could take long.
 */
void
rabbit_disconnect(RabbitSink *sink)
{
	if (sink->connection == NULL)
		return;
	set_fd(sink, -1);
	amqp_destroy_connection(sink->connection);
	sink->connection = NULL;
	sink->blocked = false;
}

/*
 * Say why a delivery ends, and let go of the connection.  Returns false.
 */
static bool
fail(RabbitSink *sink, RabbitJob *job, const char *what, const char *why)
{
	if (job != NULL && job->error[0] == '\0')
		snprintf(job->error, sizeof(job->error), "%s: %s", what, why);
	rabbit_disconnect(sink);
	return false;
}

/*
 * The same for what the broker said when it closed channel or connection.
 */
static bool
fail_closed(RabbitSink *sink, RabbitJob *job, const char *what, int code, amqp_bytes_t text)
{
	char		why[400];

	snprintf(why, sizeof(why), "broker said %d %.*s", code,
			 (int) Min(text.len, 300), (const char *) text.bytes);
	if (job != NULL)
		job->code = code;
	return fail(sink, job, what, why);
}

/*
 * Look at the answer to a request.  False: it failed.
 */
static bool
check_reply(RabbitSink *sink, RabbitJob *job, const char *what, amqp_rpc_reply_t reply)
{
	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return true;
	if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION)
		return fail(sink, job, what, amqp_error_string2(reply.library_error));
	if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
		reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *closed = reply.reply.decoded;

		return fail_closed(sink, job, what, closed->reply_code, closed->reply_text);
	}
	if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
		reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *closed = reply.reply.decoded;

		return fail_closed(sink, job, what, closed->reply_code, closed->reply_text);
	}
	return fail(sink, job, what, "unexpected answer");
}

/*
 * Wait until a socket is connected.  Returns 0, or what went wrong.
 */
static int
wait_connected(RabbitSink *sink, int fd, int64_t until)
{
	struct pollfd writable = {.fd = fd,.events = POLLOUT};
	int			error = 0;
	socklen_t	len = sizeof(error);

	while (poll(&writable, 1, GLANCE) <= 0)
	{
		if (rabbit_hurried(sink))
			return EINTR;
		if (rabbit_now() >= until)
			return ETIMEDOUT;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		return errno;
	return error;
}

/*
 * Connect a socket to one of the addresses of the host, in their order, of those that
 * are allowed.  Returns it, with the address as a text, or -1, with the last error.
 */
static int
dial(RabbitSink *sink, int64_t until, char *address, const char **error)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	int			on = 1;
	char		port[12];
	int			status;

	snprintf(port, sizeof(port), "%d", sink->port);
	status = getaddrinfo(sink->host, port, &hints, &list);
	if (status != 0)
	{
		*error = gai_strerror(status);
		return -1;
	}
	for (struct addrinfo *one = list; one != NULL; one = one->ai_next)
	{
		int			fd;

		if (!oi_address_allowed(sink->allowed, one->ai_addr))
		{
			*error = OI_ADDRESS_REFUSED;
			continue;
		}
		if (!oi_address_text(one->ai_addr, address, NI_MAXHOST))
			continue;
		fd = socket(one->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0)
			continue;
		status = connect(fd, one->ai_addr, one->ai_addrlen) == 0 ? 0 : errno;
		if (status == EINPROGRESS)
			status = wait_connected(sink, fd, until);
		if (status == 0)
		{
			(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
			freeaddrinfo(list);
			return fd;
		}
		*error = strerrordesc_np(status);
		close(fd);
	}
	freeaddrinfo(list);
	return -1;
}

/*
 * Called by OpenSSL: a handshake begins.  The broker is told by which name we know
 * it, since the library, which has its address only, tells it that.
 */
static void
tell_name(const SSL * ssl, int where, int result)
{
	const RabbitSink *sink = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	if (where & SSL_CB_HANDSHAKE_START)
		(void) SSL_set_tlsext_host_name(unconstify(SSL *, ssl), sink->host);
}

/*
 * A certificate has to be for this host, a name or an address.  False: out of
 * memory.
 */
static bool
expect_host(RabbitSink *sink, SSL_CTX * context)
{
	X509_VERIFY_PARAM *param = SSL_CTX_get0_param(context);

	if (X509_VERIFY_PARAM_set1_ip_asc(param, sink->host) == 1)
		return true;
	SSL_CTX_set_app_data(context, sink);
	SSL_CTX_set_info_callback(context, tell_name);
	return X509_VERIFY_PARAM_set1_host(param, sink->host, 0) == 1;
}

/*
 * Set up the verification of certificates.  The host's name is OpenSSL's to verify: the
 * library connects to an address that was checked, and would look for that.  Returns 0,
 * or a status of the library.
 */
static int
set_up_tls(RabbitSink *sink, amqp_socket_t * socket)
{
	SSL_CTX    *context = amqp_ssl_socket_get_context(socket);
	int			status = AMQP_STATUS_OK;

	amqp_ssl_socket_set_verify_peer(socket, 1);
	amqp_ssl_socket_set_verify_hostname(socket, 0);
	(void) amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST);
	if (!expect_host(sink, context))
		return AMQP_STATUS_NO_MEMORY;
	if (sink->ca_file != NULL)
		status = amqp_ssl_socket_set_cacert(socket, sink->ca_file);
	else if (SSL_CTX_set_default_verify_paths(context) != 1)
		status = AMQP_STATUS_SSL_ERROR;
	if (status == AMQP_STATUS_OK && sink->cert_file != NULL)
		status = amqp_ssl_socket_set_key(socket, sink->cert_file, sink->key_file);
	return status;
}

/*
 * Open the socket.  The library itself connects where there is TLS, and cannot be
 * told to stop; so a connection of our own comes first, which finds out whether
 * there is anybody, and to which address the library may connect.
 */
static bool
open_socket(RabbitSink *sink, RabbitJob *job, int64_t until)
{
	const char *error = "no usable address";
	char		address[NI_MAXHOST];
	int			fd = dial(sink, until, address, &error);
	amqp_socket_t *socket;
	struct timeval left;
	int			status;

	if (fd < 0)
		return fail(sink, job, "could not connect to broker", error);
	if (!sink->tls)
	{
		socket = amqp_tcp_socket_new(sink->connection);
		amqp_tcp_socket_set_sockfd(socket, fd);
		set_fd(sink, fd);
		return true;
	}

	close(fd);
	socket = amqp_ssl_socket_new(sink->connection);
	if (socket == NULL)
		return fail(sink, job, "could not connect to broker", "out of memory");
	status = set_up_tls(sink, socket);
	if (status != AMQP_STATUS_OK)
		return fail(sink, job, "could not set up TLS", amqp_error_string2(status));
	left.tv_sec = Max(until - rabbit_now(), 1) / 1000;
	left.tv_usec = Max(until - rabbit_now(), 1) % 1000 * 1000;
	status = amqp_socket_open_noblock(socket, address, sink->port, &left);
	if (status != AMQP_STATUS_OK)
		return fail(sink, job, "could not connect to broker with TLS", amqp_error_string2(status));
	set_fd(sink, amqp_get_sockfd(sink->connection));
	return true;
}

/*
 * An entry of a table.
 */
static amqp_table_entry_t
entry(const char *key, uint8_t kind)
{
	return (amqp_table_entry_t)
	{
		.key = amqp_cstring_bytes(key),.value.kind = kind
	};
}

/*
 * Log in, telling the broker who we are and that we know what it means to be
 * blocked.  With external authentication the user's name means nothing to RabbitMQ,
 * but the library fails without any.
 */
static bool
log_in(RabbitSink *sink, RabbitJob *job)
{
	amqp_table_entry_t capability = entry("connection.blocked", AMQP_FIELD_KIND_BOOLEAN);
	amqp_table_entry_t properties[2] = {
		entry("capabilities", AMQP_FIELD_KIND_TABLE),
		entry("connection_name", AMQP_FIELD_KIND_UTF8)
	};
	amqp_table_t table = {.num_entries = lengthof(properties),.entries = properties};
	amqp_rpc_reply_t reply;

	capability.value.value.boolean = 1;
	properties[0].value.value.table.num_entries = 1;
	properties[0].value.value.table.entries = &capability;
	properties[1].value.value.bytes = amqp_cstring_bytes(sink->name);
	if (sink->external)
		reply = amqp_login_with_properties(sink->connection, sink->virtual_host, 0, FRAME_MAX,
										   sink->heartbeat, &table, AMQP_SASL_METHOD_EXTERNAL,
										   sink->user);
	else
		reply = amqp_login_with_properties(sink->connection, sink->virtual_host, 0, FRAME_MAX,
										   sink->heartbeat, &table, AMQP_SASL_METHOD_PLAIN,
										   sink->user, sink->password);
	return check_reply(sink, job, "could not log in to broker", reply);
}

/*
 * Open the channel, ask for confirms, and look for the exchange.
 */
static bool
open_channel(RabbitSink *sink, RabbitJob *job)
{
	amqp_connection_state_t connection = sink->connection;

	(void) amqp_channel_open(connection, RABBIT_CHANNEL);
	if (!check_reply(sink, job, "could not open a channel", amqp_get_rpc_reply(connection)))
		return false;
	(void) amqp_confirm_select(connection, RABBIT_CHANNEL);
	if (!check_reply(sink, job, "broker gives no confirms", amqp_get_rpc_reply(connection)))
		return false;
	if (sink->exchange[0] != '\0')
		(void) amqp_exchange_declare(connection, RABBIT_CHANNEL,
									 amqp_cstring_bytes(sink->exchange),
									 amqp_cstring_bytes("direct"), 1, 0, 0, 0,
									 amqp_empty_table);
	return check_reply(sink, job, "exchange cannot be used", amqp_get_rpc_reply(connection));
}

/*
 * Make a connection.  False: the job says why there is none.
 */
bool
rabbit_connect(RabbitSink *sink, RabbitJob *job)
{
	int64_t		until = rabbit_now() + sink->timeout;
	struct timeval timeout = {.tv_sec = sink->timeout / 1000,.tv_usec = sink->timeout % 1000 * 1000};

	rabbit_disconnect(sink);
	sink->connection = amqp_new_connection();
	if (sink->connection == NULL)
		return fail(sink, job, "could not connect to broker", "out of memory");
	sink->next_tag = 1;
	(void) amqp_set_handshake_timeout(sink->connection, &timeout);
	(void) amqp_set_rpc_timeout(sink->connection, &timeout);
	return open_socket(sink, job, until) && log_in(sink, job) && open_channel(sink, job);
}

/*
 * Take note of a frame that is about connection or channel as a whole.  False:
 * there is no connection any more.
 */
bool
rabbit_note_frame(RabbitSink *sink, const amqp_frame_t * frame, RabbitJob *job)
{
	amqp_method_t method = frame->payload.method;

	if (frame->frame_type != AMQP_FRAME_METHOD)
		return true;
	if (method.id == AMQP_CONNECTION_BLOCKED_METHOD)
	{
		amqp_connection_blocked_t *blocked = method.decoded;

		sink->blocked = true;
		snprintf(sink->blocked_reason, sizeof(sink->blocked_reason), "%.*s",
				 (int) Min(blocked->reason.len, 100), (const char *) blocked->reason.bytes);
	}
	else if (method.id == AMQP_CONNECTION_UNBLOCKED_METHOD)
		sink->blocked = false;
	else if (method.id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *closed = method.decoded;

		return fail_closed(sink, job, "channel was closed", closed->reply_code, closed->reply_text);
	}
	else if (method.id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		amqp_connection_close_t *closed = method.decoded;

		return fail_closed(sink, job, "connection was closed", closed->reply_code,
						   closed->reply_text);
	}
	return true;
}

/*
 * While there is nothing to deliver: take what came, and send heartbeats.
 */
void
rabbit_idle(void *arg)
{
	RabbitSink *sink = arg;
	struct timeval none = {0};
	amqp_frame_t frame;
	int			status;

	while (sink->connection != NULL)
	{
		amqp_maybe_release_buffers(sink->connection);
		status = amqp_simple_wait_frame_noblock(sink->connection, &frame, &none);
		if (status == AMQP_STATUS_TIMEOUT)
			break;
		if (status != AMQP_STATUS_OK)
			rabbit_disconnect(sink);
		else
			(void) rabbit_note_frame(sink, &frame, NULL);
	}
}
