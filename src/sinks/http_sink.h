/*-------------------------------------------------------------------------
 *
 * http_sink.h
 *		Inside of the sink "http".
 *
 *-------------------------------------------------------------------------
 */
#ifndef HTTP_SINK_H
#define HTTP_SINK_H

#include <curl/curl.h>
#include <signal.h>

#include "http_signature.h"
#include "order_sink.h"
#include "shared_address.h"

/* what is read of a response, headers and body each, before it is given up */
#define HTTP_MAX_RESPONSE (64 * 1024)

typedef struct HttpSink HttpSink;

/* one connection's worth of work: a request under way, or an idle handle */
typedef struct HttpRequest
{
	HttpSink   *sink;
	CURL	   *easy;
	struct curl_slist *headers;
	int			event;			/* which of the batch; -1: idle */
	size_t		received;		/* bytes of the response so far */
	bool		too_long;
	bool		whole_header;	/* the empty line behind it was there */
	bool		forbidden;		/* the address is not allowed */
	char		error[CURL_ERROR_SIZE];
} HttpRequest;

struct HttpSink
{
	CURLM	   *multi;
	HttpRequest *requests;
	int			max_in_flight;
	long		timeout;		/* ms for one request */
	char	   *url;
	const char *authorization;	/* header line, or NULL */
	HttpSecret *secret;			/* NULL: do not sign */
	OiNetworks *allowed;
	char	   *ca_file;		/* NULL: the system's */
	sigset_t	outer_mask;		/* of signals, while libcurl runs */
};

extern void http_request_init(HttpSink *sink, HttpRequest *request);
extern void http_request_fill(HttpRequest *request, const OiSinkState *state,
							  const OiSinkEvent *event);

#endif							/* HTTP_SINK_H */
