/*-------------------------------------------------------------------------
 *
 * fingerprint.h
 *		Hashes of keys and requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_FINGERPRINT_H
#define OI_FINGERPRINT_H

#include "common/sha2.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define OI_FINGERPRINT_LENGTH PG_SHA256_DIGEST_LENGTH

/* the hash of scope and key, in both formats that generations have */
typedef struct OiKeyHash
{
	pg_uuid_t	plain;
	pg_uuid_t	time_ordered;	/* the same, but for a UUIDv7 */
} OiKeyHash;

extern void oi_fingerprint_key(const text *scope, const text *key,
							   OiKeyHash *hash);
extern void oi_fingerprint_request(Jsonb *request,
								   uint8 hash[OI_FINGERPRINT_LENGTH]);

#endif							/* OI_FINGERPRINT_H */
