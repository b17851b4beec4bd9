/*-------------------------------------------------------------------------
 *
 * shared_address.c
 *		Which addresses a sink may connect to.
 *
 * A name may lead anywhere: to the server itself, to its neighbours, to the
 * metadata service of a cloud, and to another place each time it is asked for.  So what
 * is checked is the very address that is connected to, when the name was resolved.
 *
 * Networks are one piece of memory without pointers, so that a sink whose
 * library's threads may outlive it can keep a copy of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>

#include "access/htup_details.h"	/* brings varatt.h, where there is one */
#include "order_sink.h"
#include "shared_address.h"
#include "utils/inet.h"

/* the addresses that are not public, by RFC 6890 and RFC 4291 */
#define NOT_PUBLIC \
	"0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12," \
	"192.0.0.0/24,192.0.2.0/24,192.168.0.0/16,198.18.0.0/15,198.51.100.0/24," \
	"203.0.113.0/24,224.0.0.0/3,::/8,64:ff9b::/96,64:ff9b:1::/48,100::/64," \
	"2001::/23,2001:db8::/32,2002::/16,fc00::/7,fe80::/9,ff00::/8"

/* all addresses that begin with the same bits */
typedef struct Network
{
	int			family;			/* AF_INET or AF_INET6 */
	int			bits;
	unsigned char address[16];
} Network;

struct OiNetworks
{
	bool		forbids;		/* the list is of what is not allowed */
	int			n;
	Network		networks[FLEXIBLE_ARRAY_MEMBER];
};

/*
 * A list of networks, in the current context.
 */
static OiNetworks *
make_networks(const char *list, bool forbids)
{
	int			n;
	inet	  **parsed = oi_sink_networks(list, &n);
	OiNetworks *networks = palloc0(offsetof(OiNetworks, networks) + n * sizeof(Network));

	networks->forbids = forbids;
	networks->n = n;
	for (int i = 0; i < n; i++)
	{
		Network    *network = &networks->networks[i];

		network->family = ip_family(parsed[i]) == PGSQL_AF_INET ? AF_INET : AF_INET6;
		network->bits = ip_bits(parsed[i]);
		memcpy(network->address, ip_addr(parsed[i]), network->family == AF_INET ? 4 : 16);
	}
	return networks;
}

/*
 * What option allow_addresses allows.  NULL, if there is no list: everything.
 */
OiNetworks *
oi_networks_parse(const char *list)
{
	return list == NULL ? NULL : make_networks(list, false);
}

/*
 * What is public.
 */
OiNetworks *
oi_networks_public(void)
{
	return make_networks(NOT_PUBLIC, true);
}

/*
 * The bytes of all of it.
 */
size_t
oi_networks_size(const OiNetworks *networks)
{
	return offsetof(OiNetworks, networks) + networks->n * sizeof(Network);
}

/*
 * Have two addresses the same first bits?
 */
static bool
same_bits(const unsigned char *one, const unsigned char *other, int bits)
{
	int			rest = bits % 8;

	if (memcmp(one, other, bits / 8) != 0)
		return false;
	return rest == 0 || (one[bits / 8] ^ other[bits / 8]) >> (8 - rest) == 0;
}

/*
 * May a connection go to an address?  An IPv4 address in the form of IPv6 is
 * taken for what it is.  Raises no error.
 */
bool
oi_address_allowed(const OiNetworks *networks, const struct sockaddr *address)
{
	int			family = address->sa_family;
	const unsigned char *bytes;

	if (networks == NULL)
		return true;
	if (family == AF_INET)
		bytes = (const unsigned char *) &((const struct sockaddr_in *) address)->sin_addr;
	else if (family == AF_INET6)
	{
		const struct in6_addr *v6 = &((const struct sockaddr_in6 *) address)->sin6_addr;
		bool		mapped = IN6_IS_ADDR_V4MAPPED(v6);

		family = mapped ? AF_INET : AF_INET6;
		bytes = v6->s6_addr + (mapped ? 12 : 0);
	}
	else
		return false;

	for (int i = 0; i < networks->n; i++)
		if (networks->networks[i].family == family &&
			same_bits(networks->networks[i].address, bytes, networks->networks[i].bits))
			return !networks->forbids;
	return networks->forbids;
}

/*
 * An address without a name, for a library that is to connect to it and nowhere
 * else.  False: it has no such form.
 */
bool
oi_address_text(const struct sockaddr *address, char *text, size_t size)
{
	socklen_t	len = address->sa_family == AF_INET ? sizeof(struct sockaddr_in) :
	sizeof(struct sockaddr_in6);

	return getnameinfo(address, len, text, size, NULL, 0, NI_NUMERICHOST) == 0;
}
