/*-------------------------------------------------------------------------
 *
 * subscription_report.c
 *		What shared memory knows of the workers of this database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(oi_subscription_workers);
PG_FUNCTION_INFO_V1(oi_subscription_activity);

/*
 * The word for a worker's state.
 */
static const char *
state_name(OiWorkerState state)
{
	switch (state)
	{
		case OI_WORKER_STOPPED:
			return "stopped";
		case OI_WORKER_NO_PROCESS:
			return "no process";
		case OI_WORKER_STARTING:
			return "starting";
		case OI_WORKER_IDLE:
			return "idle";
		case OI_WORKER_DELIVERING:
			return "delivering";
		case OI_WORKER_RETRYING:
			return "retrying";
		case OI_WORKER_OFF:
			return "off";
	}
	return "unknown";
}

/*
 * subscription_workers(): the workers of this database.  A row without a
 * subscription stands for those that were not found yet, as there is no process
 * that could look for them.
 */
Datum
oi_subscription_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	OiSlotInfo *info;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	info = oi_shmem_report(MyDatabaseId, &n);
	for (int i = 0; i < n; i++)
	{
		Datum		values[5] = {0};
		bool		nulls[5] = {0};

		values[0] = Int32GetDatum(info[i].subscription);
		values[1] = Int32GetDatum(info[i].pid);
		nulls[1] = info[i].pid == 0;
		values[2] = CStringGetTextDatum(state_name(info[i].state));
		values[3] = CStringGetTextDatum(info[i].error);
		nulls[3] = info[i].error[0] == '\0';
		values[4] = TimestampTzGetDatum(info[i].error_at);
		nulls[4] = nulls[3];
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	if (oi_shared != NULL && oi_shared->no_visit)
	{
		Datum		values[5] = {0};
		bool		nulls[5] = {true, true, false, true, true};

		values[2] = CStringGetTextDatum(state_name(OI_WORKER_NO_PROCESS));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}

	return (Datum) 0;
}

/*
 * subscription_activity(): what the sinks of this database are at.
 */
Datum
oi_subscription_activity(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	OiSlotInfo *info;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	info = oi_shmem_report(MyDatabaseId, &n);
	for (int i = 0; i < n; i++)
	{
		Datum		values[2];
		bool		nulls[2] = {0};

		values[0] = Int32GetDatum(info[i].subscription);
		values[1] = Int32GetDatum(info[i].in_flight);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}

	return (Datum) 0;
}
