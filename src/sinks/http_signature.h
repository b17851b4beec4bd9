/*-------------------------------------------------------------------------
 *
 * http_signature.h
 *		Signatures as Standard Webhooks has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HTTP_SIGNATURE_H
#define HTTP_SIGNATURE_H

typedef struct HttpSecret HttpSecret;

/* the values of headers webhook-timestamp and webhook-signature */
typedef struct HttpSignature
{
	char		timestamp[24];
	char		value[64];
} HttpSignature;

extern HttpSecret *http_secret_parse(const char *text);
extern void http_sign(const HttpSecret *secret, const char *id, const char *body,
					  HttpSignature *signature);

#endif							/* HTTP_SIGNATURE_H */
