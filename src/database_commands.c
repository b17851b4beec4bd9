/*-------------------------------------------------------------------------
 *
 * database_commands.c
 *		Making room for commands that want a database for themselves.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE for its template, lock the database against new connections, wait
 * for five seconds for the sessions that it has, and fail if there are any left.
 * Our own processes must not be among these.
 *
 * They are ended as soon as the database is locked, by the very lock that the
 * command takes.  So that lock is all that keeps them away: the launcher starts
 * none for a database that it cannot lock as a connection would (databases.c),
 * and one that was on its way waits in its connection.  The server gives the
 * lock back however the command, its transaction or its session ends; nothing
 * of ours has to be undone.
 *
 * DROP DATABASE has a hook between its lock and its wait, for object access
 * controls.  The others have none, so for them the lock is taken ahead of the
 * command, for whoever has the right to the command; for anybody else nothing
 * is done, and the command fails as ever.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "compat.h"
#include "database_commands.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "shmem.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/syscache.h"

/* the template of CREATE DATABASE that names none */
#define DEFAULT_TEMPLATE "template1"

/* what a command wants for itself */
typedef struct Wanted
{
	const char *name;			/* a database; NULL: none */
	LOCKMODE	mode;			/* how it locks that */
	bool		creates;		/* takes the right to create databases */
	bool		copies;			/* is content with a template, whoever owns it */
} Wanted;

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/*
 * Hook: a database is about to be dropped, by somebody who may.
 */
static void
end_workers_of_dropped(ObjectAccessType access, Oid classId, Oid objectId,
					   int subId, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_DROP && classId == DatabaseRelationId)
		oi_shmem_end_workers(objectId);
}

/*
 * An option of a command; NULL: not given, or without a value.
 */
static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return option;
	}
	return NULL;
}

/*
 * Which database does a command want?  Two of them refuse to run in a
 * transaction block, where they are left to do so.
 */
static Wanted
wanted_by(Node *command, bool is_top)
{
	Wanted		wanted = {.name = NULL,.mode = AccessExclusiveLock};
	DefElem    *option;

	if (IsA(command, RenameStmt) && ((RenameStmt *) command)->renameType == OBJECT_DATABASE)
	{
		wanted.name = ((RenameStmt *) command)->subname;
		wanted.creates = true;
	}
	else if (IsA(command, AlterDatabaseStmt) &&
			 find_option(((AlterDatabaseStmt *) command)->options, "tablespace") != NULL &&
			 !IsInTransactionBlock(is_top))
		wanted.name = ((AlterDatabaseStmt *) command)->dbname;
	else if (IsA(command, CreatedbStmt) && !IsInTransactionBlock(is_top))
	{
		option = find_option(((CreatedbStmt *) command)->options, "template");
		wanted.name = option != NULL ? defGetString(option) : DEFAULT_TEMPLATE;
		wanted.mode = ShareLock;
		wanted.creates = true;
		wanted.copies = true;
	}

	return wanted;
}

/*
 * May this user create databases?
 */
static bool
may_create(void)
{
	HeapTuple	tuple;
	bool		result;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	result = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/*
 * Is a database marked as a template?
 */
static bool
is_template(Oid dboid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	bool		result;

	result = HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/*
 * May this user, in this session, do to a database what the command does?
 */
static bool
is_allowed(const Wanted *wanted, Oid dboid)
{
	if (dboid == MyDatabaseId && !wanted->copies)
		return false;
	if (wanted->creates && !may_create())
		return false;
	return oi_compat_owns_database(dboid, GetUserId()) ||
		(wanted->copies && is_template(dboid));
}

/*
 * Lock the database as the command will.  InvalidOid: there is none that this
 * user has the right to.
 */
static Oid
lock_wanted(const Wanted *wanted)
{
	for (;;)
	{
		Oid			dboid = get_database_oid(wanted->name, true);

		if (!OidIsValid(dboid) || !is_allowed(wanted, dboid))
			return InvalidOid;
		LockSharedObject(DatabaseRelationId, dboid, 0, wanted->mode);

		/* it may have been renamed, or given away, while we waited */
		if (get_database_oid(wanted->name, true) == dboid && is_allowed(wanted, dboid))
			return dboid;
		UnlockSharedObject(DatabaseRelationId, dboid, 0, wanted->mode);
	}
}

/*
 * Hook: a utility command is about to run.
 */
static void
make_room_for_command(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Wanted		wanted = wanted_by(pstmt->utilityStmt, context == PROCESS_UTILITY_TOPLEVEL);

	if (wanted.name != NULL && !RecoveryInProgress() && !XactReadOnly)
	{
		Oid			dboid = lock_wanted(&wanted);

		if (OidIsValid(dboid))
			oi_shmem_end_workers(dboid);
	}

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context, params,
								  queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
								queryEnv, dest, qc);
}

/*
 * Called when the library is preloaded, where there are workers.
 */
void
oi_database_commands_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = end_workers_of_dropped;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = make_room_for_command;
}
