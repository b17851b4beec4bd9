/*-------------------------------------------------------------------------
 *
 * coverage_end.c
 *		Has processes write what they counted where they end without exit().
 *
 * To be loaded by LD_PRELOAD where coverage is measured.  Who ends by exit()
 * writes it anyway.  Here it is written by who ends by _exit(), as the server's processes
 * do at an immediate shutdown and after a crash of another one, and by who sends
 * itself SIGKILL, as test modules do.  Who gets SIGKILL from others cannot write.
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

extern void coverage_library(void (*dump) (void), int loaded);
extern int	kill(pid_t pid, int signal_number);
extern void _exit(int code);

/* libraries, at most: the extension and its sinks */
#define MAX_LIBRARIES 32

static void (*dumps[MAX_LIBRARIES]) (void);

/*
 * A file of a library says which function writes what the library counted,
 * or that the library is going to be unloaded.
 */
void
coverage_library(void (*dump) (void), int loaded)
{
	void		(**unused) (void) = NULL;

	for (int i = 0; i < MAX_LIBRARIES; i++)
	{
		if (dumps[i] == dump)
		{
			dumps[i] = loaded ? dump : NULL;
			return;
		}
		if (dumps[i] == NULL && unused == NULL)
			unused = &dumps[i];
	}
	if (loaded && unused == NULL)
		abort();
	if (loaded)
		*unused = dump;
}

/*
 * Write what all of them counted.
 */
static void
dump_all(void)
{
	for (int i = 0; i < MAX_LIBRARIES; i++)
	{
		if (dumps[i] != NULL)
			dumps[i] ();
	}
}

/*
 * kill()
 */
int
kill(pid_t pid, int signal_number)
{
	int			(*real) (pid_t, int) = (int (*) (pid_t, int)) dlsym(RTLD_NEXT, "kill");

	if (signal_number == SIGKILL && pid == getpid())
		dump_all();
	return real(pid, signal_number);
}

/*
 * _exit()
 */
void
_exit(int code)
{
	void		(*real) (int) = (void (*) (int)) dlsym(RTLD_NEXT, "_exit");

	dump_all();
	real(code);
	abort();
}
