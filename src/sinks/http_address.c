/*-------------------------------------------------------------------------
 *
 * http_address.c
 *		Which addresses a request may go to.
 *
 * A name may lead anywhere: to the server itself, to its neighbours, to the
 * metadata service of a cloud.  Without a list only public addresses are
 * allowed; with one, only what is on it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>

#include "access/htup_details.h"	/* brings varatt.h, where there is one */
#include "http_address.h"
#include "order_sink.h"
#include "utils/inet.h"

/* the addresses that are not public, by RFC 6890 and RFC 4291 */
#define NOT_PUBLIC \
	"0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12," \
	"192.0.0.0/24,192.0.2.0/24,192.168.0.0/16,198.18.0.0/15,198.51.100.0/24," \
	"203.0.113.0/24,224.0.0.0/3,::/8,64:ff9b::/96,64:ff9b:1::/48,100::/64," \
	"2001::/23,2001:db8::/32,2002::/16,fc00::/7,fe80::/9,ff00::/8"

struct HttpNetworks
{
	bool		forbids;		/* the list is of what is not allowed */
	int			n;
	inet	  **networks;
};

/*
 * The networks of option allow_addresses, or NULL, in the current context.
 */
HttpNetworks *
http_networks_parse(const char *list)
{
	HttpNetworks *networks = palloc0(sizeof(HttpNetworks));

	networks->forbids = list == NULL;
	networks->networks = oi_sink_networks(list ? list : NOT_PUBLIC, &networks->n);
	return networks;
}

/*
 * Is an address, of so many bits, in one of the networks?
 */
static bool
listed(const HttpNetworks *networks, int family, const unsigned char *address)
{
	for (int i = 0; i < networks->n; i++)
	{
		inet	   *network = networks->networks[i];

		if (ip_family(network) == family &&
			bitncmp(ip_addr(network), address, ip_bits(network)) == 0)
			return true;
	}
	return false;
}

/*
 * May a request go to an address?  An IPv4 address in the form of IPv6 is taken
 * for what it is.  Called within libcurl: raises no error.
 */
bool
http_address_allowed(const HttpNetworks *allowed, const struct sockaddr *address)
{
	int			family;
	const unsigned char *bytes;

	if (address->sa_family == AF_INET)
	{
		family = PGSQL_AF_INET;
		bytes = (const unsigned char *) &((const struct sockaddr_in *) address)->sin_addr;
	}
	else if (address->sa_family == AF_INET6)
	{
		const struct in6_addr *v6 = &((const struct sockaddr_in6 *) address)->sin6_addr;
		bool		mapped = IN6_IS_ADDR_V4MAPPED(v6);

		family = mapped ? PGSQL_AF_INET : PGSQL_AF_INET6;
		bytes = v6->s6_addr + (mapped ? 12 : 0);
	}
	else
		return false;

	return listed(allowed, family, bytes) != allowed->forbids;
}
