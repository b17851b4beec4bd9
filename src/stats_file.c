/*-------------------------------------------------------------------------
 *
 * stats_file.c
 *		Statistics over a clean restart.
 *
 * The postmaster writes the file when it ends, after all others, and removes
 * it when it starts, after it was read.
 *
 * What is read must be whole: length and checksum say so, and the layout is
 * of this very library.  And the server must have been shut down cleanly, as
 * its control file has it: an immediate shutdown ends the postmaster as if
 * nothing was wrong, and a power cut may bring back a file that was removed.
 * Otherwise the statistics begin anew.  Nothing of this may keep a server from
 * starting or ending.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "compat.h"
#include "stats_shmem.h"
#include "storage/fd.h"

#define STATS_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/order_idempotency.stat"

/* to be changed with what any number means */
#define STATS_FORMAT 1

/* no server has more subscriptions */
#define MAX_READERS 1024

typedef struct StatsHeader
{
	char		magic[8];
	uint32		server;			/* OI_SERVER_VERSION */
	uint32		format;
	uint32		nreaders;		/* follow the databases */
	pg_crc32c	crc;			/* over all that follows */
} StatsHeader;

/* The length of what follows the header. */
static Size
body_length(uint32 nreaders)
{
	return sizeof(oi_stats->databases) + nreaders * sizeof(OiStatsReader);
}

/* The header that goes with a body. */
static void
make_header(StatsHeader *header, const char *body, uint32 nreaders)
{
	memset(header, 0, sizeof(StatsHeader));
	memcpy(header->magic, "OI stats", sizeof(header->magic));
	header->server = OI_SERVER_VERSION;
	header->format = STATS_FORMAT;
	header->nreaders = nreaders;
	INIT_CRC32C(header->crc);
	COMP_CRC32C(header->crc, body, body_length(nreaders));
	FIN_CRC32C(header->crc);
}

/* Takes over a body that is whole; subscriptions as many as there is room for. */
static void
take_body(const char *body, uint32 nreaders)
{
	OiStatsReader *readers = (OiStatsReader *) (body + sizeof(oi_stats->databases));
	int			n = 0;

	memcpy(oi_stats->databases, body, sizeof(oi_stats->databases));
	for (uint32 i = 0; i < nreaders && n < oi_stats->nreaders; i++)
		if (OidIsValid(readers[i].dboid))
		{
			oi_stats->readers[n] = readers[i];
			oi_stats->readers[n++].served = false;
		}
}

/* Reads the file into memory.  False: it is not what it should be. */
static bool
read_file(FILE *file)
{
	StatsHeader found;
	StatsHeader expected;
	char	   *body;
	bool		good;

	if (fread(&found, sizeof(found), 1, file) != 1 || found.nreaders > MAX_READERS)
		return false;
	body = palloc(body_length(found.nreaders));
	good = fread(body, body_length(found.nreaders), 1, file) == 1 && fgetc(file) == EOF;
	if (good)
	{
		make_header(&expected, body, found.nreaders);
		good = memcmp(&found, &expected, sizeof(StatsHeader)) == 0;
	}
	if (good)
		take_body(body, found.nreaders);
	pfree(body);
	return good;
}

/* Was the server shut down cleanly, when it last was? */
static bool
was_shut_down(void)
{
	bool		good;
	ControlFileData *control = get_controlfile(DataDir, &good);

	good = good && (control->state == DB_SHUTDOWNED ||
					control->state == DB_SHUTDOWNED_IN_RECOVERY);
	pfree(control);
	return good;
}

/* Called by the postmaster when it starts: takes over what the last one left. */
void
oi_stats_load(void)
{
	FILE	   *file = AllocateFile(STATS_FILE, PG_BINARY_R);

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", STATS_FILE)));
		return;
	}
	if (was_shut_down() && !read_file(file))
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignoring invalid statistics in file \"%s\"", STATS_FILE)));
	FreeFile(file);
	(void) durable_unlink(STATS_FILE, LOG);
}

/* Writes the file under a name that nobody reads.  False: errno says why. */
static bool
write_file(const char *name)
{
	FILE	   *file = AllocateFile(name, PG_BINARY_W);
	Size		readers_length = oi_stats->nreaders * sizeof(OiStatsReader);
	char	   *body;
	StatsHeader header;
	bool		good;

	if (file == NULL)
		return false;
	body = palloc(body_length(oi_stats->nreaders));
	memcpy(body, oi_stats->databases, sizeof(oi_stats->databases));
	memcpy(body + sizeof(oi_stats->databases), oi_stats->readers, readers_length);
	make_header(&header, body, oi_stats->nreaders);
	good = fwrite(&header, sizeof(header), 1, file) == 1 &&
		fwrite(body, body_length(oi_stats->nreaders), 1, file) == 1;
	pfree(body);
	return FreeFile(file) == 0 && good;
}

/* Called by the postmaster when it ends. */
void
oi_stats_save(void)
{
	static const char *const name = STATS_FILE ".tmp";

	oi_stats_settle_sessions();
	if (write_file(name))
	{
		(void) durable_rename(name, STATS_FILE, LOG);
		return;
	}
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", name)));
	unlink(name);
}
