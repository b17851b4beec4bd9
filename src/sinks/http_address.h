/*-------------------------------------------------------------------------
 *
 * http_address.h
 *		Which addresses a request may go to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HTTP_ADDRESS_H
#define HTTP_ADDRESS_H

#include <sys/socket.h>

typedef struct HttpNetworks HttpNetworks;

extern HttpNetworks *http_networks_parse(const char *list);
extern bool http_address_allowed(const HttpNetworks *allowed, const struct sockaddr *address);

#endif							/* HTTP_ADDRESS_H */
