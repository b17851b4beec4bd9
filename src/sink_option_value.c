/*-------------------------------------------------------------------------
 *
 * sink_option_value.c
 *		What options of the sinks' servers and user mappings may be.
 *
 * No error repeats a value: it may be a secret.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "catalog/pg_authid.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "sink_option_value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

/* bounds of sizes */
#define LEAST_BYTES INT64CONST(1024)
#define MOST_BYTES (INT64CONST(1) << 40)

/* the longest names of hosts, names at receivers and secrets, in bytes */
#define MOST_HOST 253
#define MOST_NAME 127
#define MOST_SECRET 8192
#define MOST_SOCKET_PATH 107

#define LETTERS_AND_DIGITS \
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

/*
 * The networks in a comma-separated list of addresses and networks, in the
 * current context.  Raises an error for what is none.
 */
inet **
oi_sink_networks(const char *list, int *n)
{
	char	   *copy = pstrdup(list);
	char	   *state = NULL;
	inet	  **networks = palloc(sizeof(inet *) * (strlen(list) / 2 + 1));

	*n = 0;
	for (char *word = strtok_r(copy, ", ", &state); word; word = strtok_r(NULL, ", ", &state))
		networks[(*n)++] = DatumGetInetPP(DirectFunctionCall1(inet_in, CStringGetDatum(word)));
	pfree(copy);

	return networks;
}

/*
 * How many bytes a size is: a number, and a unit as in the server's settings.
 * False: it is no size.
 */
bool
oi_sink_bytes(const char *size, int64 *bytes)
{
	double		value;

	if (!parse_real(size, &value, GUC_UNIT_BYTE, NULL) || value < 0 || value > MOST_BYTES)
		return false;
	*bytes = (int64) value;
	return true;
}

/*
 * Raise the error of a value that is not acceptable.
 */
static void
report_value(const char *name, const char *must)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("option \"%s\" must be %s", name, must)));
}

/*
 * A path says what the server's operating system user reads or writes, so not
 * everyone may set it.
 */
static void
check_path(const char *name, const char *path, Oid role, const char *role_name, const char *what)
{
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", name),
				 errhint("It takes the privileges of role %s.", role_name)));
	if (!is_absolute_path(path))
		report_value(name, what);
}

/*
 * A URL with nothing in it but scheme, host and path: what a user name, a query
 * or a fragment would mean is not for a server to say.
 */
static void
check_http_url(const char *name, const char *url)
{
	size_t		scheme = pg_strncasecmp(url, "https://", 8) == 0 ? 8 :
	pg_strncasecmp(url, "http://", 7) == 0 ? 7 : 0;

	if (scheme == 0 || url[scheme] == '\0' || url[scheme] == '/')
		report_value(name, "a URL that begins with http:// or https:// and names a host");
	for (const char *at = url; *at != '\0'; at++)
		if (*at <= ' ' || *at > '~' || strchr("@?#\"<>\\^`{|}", *at) != NULL)
			report_value(name, "a URL without user name, query, fragment, spaces and control characters");
}

/*
 * An integer within its bounds.
 */
static void
check_integer(const OiSinkOption *option, const char *value)
{
	int64		number;
	char	   *end;

	errno = 0;
	number = strtoi64(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' ||
		number < option->least || number > option->most)
		report_value(option->name, psprintf("a whole number from %d to %d",
											option->least, option->most));
}

/*
 * A secret of Standard Webhooks: base64, with or without its prefix.
 */
static void
check_webhook_secret(const char *name, const char *value)
{
	const char *text = strncmp(value, "whsec_", 6) == 0 ? value + 6 : value;
	size_t		len = strlen(text);

	if (len < 32 || len > 128 || len % 4 != 0 ||
		strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != len)
		report_value(name, "\"whsec_\" and 24 to 64 bytes in base64");
}

/*
 * Is so much text an IPv6 address?
 */
static bool
is_ipv6(const char *text, size_t len)
{
	char		address[INET6_ADDRSTRLEN + 1];
	struct in6_addr parsed;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	return inet_pton(AF_INET6, address, &parsed) == 1;
}

/*
 * Is so much text a host: a name of DNS, an IPv4 address, or an IPv6 address, in
 * brackets where a port can follow?
 */
static bool
is_host(const char *text, size_t len, bool brackets)
{
	if (len == 0 || len > MOST_HOST || text[0] == '-' || text[0] == '.')
		return false;
	if (brackets && text[0] == '[' && text[len - 1] == ']')
		return is_ipv6(text +1, len - 2);
	if (!brackets && memchr(text, ':', len) != NULL)
		return is_ipv6(text, len);
	for (size_t i = 0; i < len; i++)
		if (strchr(LETTERS_AND_DIGITS ".-_", text[i]) == NULL)
			return false;
	return true;
}

/*
 * Is so much text a host, and after a colon, which may be left out, a port?
 */
static bool
is_host_and_port(const char *text, size_t len, bool port_required)
{
	size_t		host = len;
	int			port = 0;

	while (host > 0 && text[host - 1] >= '0' && text[host - 1] <= '9')
		host--;
	if (host == 0 || text[host - 1] != ':')
		return !port_required && is_host(text, len, true);
	if (len - host < 1 || len - host > 5)
		return false;
	for (size_t i = host; i < len; i++)
		port = port * 10 + text[i] - '0';

	return port >= 1 && port <= 65535 && is_host(text, host - 1, true);
}

/*
 * A host, or the path of a Unix socket: what listens there is talked to by the
 * server's operating system user.
 */
static void
check_host_or_socket(const char *name, const char *value)
{
	if (value[0] == '/')
		check_path(name, value, ROLE_PG_WRITE_SERVER_FILES, "pg_write_server_files", "");
	else if (!is_host(value, strlen(value), false))
		report_value(name, "the name or the address of a host, or the absolute path of a Unix socket");
	if (value[0] == '/' && strlen(value) > MOST_SOCKET_PATH)
		report_value(name, "of at most 107 bytes, for a Unix socket");
}

/*
 * A list of host:port, or of URLs of NATS, which have no user name either: it would
 * be visible to all.
 */
static void
check_hosts(const char *name, const char *list, bool urls)
{
	const char *at = list;
	bool		good = true;

	while (good)
	{
		size_t		len = strcspn(at, ",");
		size_t		scheme = !urls ? 0 : strncmp(at, "nats://", 7) == 0 ||
		strncmp(at, "tls://", 6) == 0 ? strcspn(at, "/") + 2 : len + 1;

		good = scheme <= len && is_host_and_port(at + scheme, len - scheme, !urls);
		if (at[len] == '\0')
			break;
		at += len + 1;
	}
	if (!good && urls)
		report_value(name, "nats:// or tls://, a host, and perhaps a port, or several of these, separated by commas");
	if (!good)
		report_value(name, "a host, a colon and a port, or several of these, separated by commas");
}

/*
 * The name of something at a receiver: what nobody takes for more than that.
 */
static void
check_name(const char *name, const char *value)
{
	if (value[0] == '\0' || strlen(value) > MOST_NAME ||
		strspn(value, LETTERS_AND_DIGITS "._-/") != strlen(value))
		report_value(name, psprintf("1 to %d letters, digits, \".\", \"_\", \"-\" and \"/\"",
									MOST_NAME));
}

/*
 * One of some words.
 */
static void
check_choice(const OiSinkOption *option, const char *value)
{
	size_t		len = strlen(value);

	for (const char *at = option->choices;; at++)
	{
		size_t		word = strcspn(at, ",");

		if (word == len && strncmp(at, value, len) == 0)
			return;
		at += word;
		if (*at == '\0')
			break;
	}
	report_value(option->name, psprintf("one of: %s", option->choices));
}

/*
 * One line of text.
 */
static void
check_secret(const char *name, const char *value)
{
	bool		good = value[0] != '\0' && strlen(value) <= MOST_SECRET;

	for (const char *at = value; *at != '\0'; at++)
		good &= (unsigned char) *at >= ' ' && *at != 0x7f;
	if (!good)
		report_value(name, psprintf("1 to %d bytes without control characters", MOST_SECRET));
}

/*
 * Visible ASCII characters.
 */
static void
check_header_text(const char *name, const char *value)
{
	bool		good = value[0] != '\0';

	for (const char *at = value; *at != '\0'; at++)
		good &= *at >= '!' && *at <= '~';
	if (!good)
		report_value(name, "of visible ASCII characters");
}

/*
 * Is the value of an option acceptable?
 */
void
oi_check_option_value(const OiSinkOption *option, DefElem *given)
{
	const char *value = defGetString(given);
	int64		bytes;
	int			n;

	switch (option->kind)
	{
		case OI_KIND_BOOLEAN:
			(void) defGetBoolean(given);
			break;
		case OI_KIND_CHOICE:
			check_choice(option, value);
			break;
		case OI_KIND_HEADER_TEXT:
			check_header_text(option->name, value);
			break;
		case OI_KIND_HOST:
			if (!is_host(value, strlen(value), false))
				report_value(option->name, "the name or the address of a host");
			break;
		case OI_KIND_HOST_OR_SOCKET:
			check_host_or_socket(option->name, value);
			break;
		case OI_KIND_HOSTS:
			check_hosts(option->name, value, false);
			break;
		case OI_KIND_HTTP_URL:
			check_http_url(option->name, value);
			break;
		case OI_KIND_INTEGER:
			check_integer(option, value);
			break;
		case OI_KIND_NAME:
			check_name(option->name, value);
			break;
		case OI_KIND_NATS_URLS:
			check_hosts(option->name, value, true);
			break;
		case OI_KIND_NETWORKS:
			(void) oi_sink_networks(value, &n);
			if (n == 0)
				report_value(option->name, "a list of addresses or networks");
			break;
		case OI_KIND_READABLE_FILE:
			check_path(option->name, value, ROLE_PG_READ_SERVER_FILES, "pg_read_server_files",
					   "the absolute path of a file");
			break;
		case OI_KIND_SECRET:
			check_secret(option->name, value);
			break;
		case OI_KIND_SIZE:
			if (!oi_sink_bytes(value, &bytes) || bytes < LEAST_BYTES)
				report_value(option->name, "a size from 1kB to 1TB");
			break;
		case OI_KIND_WEBHOOK_SECRET:
			check_webhook_secret(option->name, value);
			break;
		case OI_KIND_WRITABLE_DIRECTORY:
			check_path(option->name, value, ROLE_PG_WRITE_SERVER_FILES, "pg_write_server_files",
					   "the absolute path of a directory");
			break;
	}
}
