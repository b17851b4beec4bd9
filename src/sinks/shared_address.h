/*-------------------------------------------------------------------------
 *
 * shared_address.h
 *		Which addresses a sink may connect to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SHARED_ADDRESS_H
#define SHARED_ADDRESS_H

#include <netdb.h>
#include <sys/socket.h>

/* of one that must not be connected to */
#define OI_ADDRESS_REFUSED "address is not among those in option \"allow_addresses\""

typedef struct OiNetworks OiNetworks;

extern OiNetworks *oi_networks_parse(const char *list);
extern OiNetworks *oi_networks_public(void);
extern size_t oi_networks_size(const OiNetworks *networks);

/* these may be called in any thread */
extern bool oi_address_allowed(const OiNetworks *networks, const struct sockaddr *address);
extern bool oi_address_text(const struct sockaddr *address, char *text, size_t size);

#endif							/* SHARED_ADDRESS_H */
