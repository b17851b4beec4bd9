# A pool of psql sessions that work at the same time.
#
# Each is sent a piece of script and works on it by itself; the test goes on and
# collects the output later.  A session whose server went away is dead until it
# is revived.

package OrderIdempotency::Sessions;

use strict;
use warnings;

use IO::Handle;
use IO::Select;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes;

# A pool of $count sessions of a node.  Options: db; setup, script that
# every session runs when it has connected.
sub new
{
	my ($class, $node, $count, %opt) = @_;
	my $self = bless {
		node => $node,
		db => $opt{db} // 'postgres',
		setup => $opt{setup} // '',
		marker => 0,
		sessions => [] }, $class;

	# a session that died is seen where its output is read
	$SIG{PIPE} = 'IGNORE';
	push @{ $self->{sessions} }, { dead => 1 } for 1 .. $count;
	$self->revive;
	return $self;
}

# How many sessions the pool has.
sub count
{
	my ($self) = @_;

	return scalar @{ $self->{sessions} };
}

# Starts one psql with pipes to and from it.
sub _spawn
{
	my ($self) = @_;
	my $connstr = $self->{node}->connstr($self->{db});

	pipe(my $child_in, my $in) or die "could not create pipe: $!";
	pipe(my $out, my $child_out) or die "could not create pipe: $!";
	my $process = fork // die "could not fork: $!";
	if ($process == 0)
	{
		open STDIN, '<&', $child_in or die;
		open STDOUT, '>&', $child_out or die;
		open STDERR, '>&', $child_out or die;
		close $_ foreach $child_in, $child_out, $in, $out;
		exec $self->{node}->installed_command('psql'), '-XAtq', '-d', $connstr
		  or POSIX::_exit(127);
	}
	close $child_in;
	close $child_out;
	$in->autoflush(1);
	return { process => $process, in => $in, out => $out, buffer => '',
		got => '' };
}

# Starts anew every session that is dead, and returns how many those were.
sub revive
{
	my ($self) = @_;
	my @revived = grep { $self->{sessions}[$_]{dead} } 0 .. $self->count - 1;

	foreach my $i (@revived)
	{
		$self->{sessions}[$i] = $self->_spawn;
		$self->send($i, "\\set VERBOSITY sqlstate\n$self->{setup}\n"
			  . 'SELECT pg_backend_pid();');
	}
	foreach my $i (@revived)
	{
		my $got = $self->collect($i);

		$got =~ /^([0-9]+)$/m or die "session $i did not start: $got";
		$self->{sessions}[$i]{pid} = $1;
	}
	return scalar @revived;
}

# The process id of a session's backend.
sub pid
{
	my ($self, $i) = @_;

	return $self->{sessions}[$i]{pid};
}

# The process ids of all sessions' backends, as SQL would have them in IN ().
sub pids
{
	my ($self) = @_;

	return join ', ', map { $_->{pid} } @{ $self->{sessions} };
}

# Gives a session something to do.  Does not wait for it.
sub send
{
	my ($self, $i, $script) = @_;
	my $session = $self->{sessions}[$i];

	$session->{marker} = sprintf 'end-of-output-%d', ++$self->{marker};
	$session->{got} = '';
	$session->{pending} = 1;
	# the semicolon ends a last statement that has none
	print { $session->{in} } "$script\n;\n\\echo $session->{marker}\n";
	return;
}

# Gives all sessions something to do: script, or a function of the number that
# returns one.
sub send_all
{
	my ($self, $script) = @_;

	foreach my $i (0 .. $self->count - 1)
	{
		$self->send($i, ref $script ? $script->($i) : $script);
	}
	return;
}

# Takes what a session has written into its buffer; true once its output is
# complete or its server is gone.
sub _take
{
	my ($self, $i) = @_;
	my $session = $self->{sessions}[$i];
	my $read = sysread $session->{out}, $session->{buffer}, 65536,
	  length $session->{buffer};

	if (!$read)
	{
		$session->{dead} = 1;
		$session->{pending} = 0;
		$session->{got} = $session->{buffer};
		$session->{buffer} = '';
		close $session->{in};
		close $session->{out};
		waitpid $session->{process}, 0;
		return 1;
	}
	return 0 if $session->{buffer} !~ s/\A(.*?)^$session->{marker}\n//ms;
	$session->{got} = $1;
	$session->{pending} = 0;
	return 1;
}

# Waits until some of these handles can be read, and returns them; none when the
# time is over.  A signal, such as that of a child that ended, does not end it.
sub _wait_readable
{
	my ($select, $deadline) = @_;

	while ((my $left = $deadline - Time::HiRes::time()) > 0)
	{
		my @ready = $select->can_read($left);

		return @ready if @ready;
	}
	return;
}

# Waits for the output of some sessions, and returns it in their order.  What
# was collected before is returned again.
sub collect
{
	my ($self, @which) = @_;
	my $deadline =
	  Time::HiRes::time() + $PostgreSQL::Test::Utils::timeout_default;
	my %missing =
	  map { fileno($self->{sessions}[$_]{out}) => $_ }
	  grep { $self->{sessions}[$_]{pending} } @which;

	while (%missing)
	{
		my $select = IO::Select->new(
			map { $self->{sessions}[$_]{out} } values %missing);
		my @ready = _wait_readable($select, $deadline);

		die 'sessions ' . join(', ', sort values %missing) . ' did not end'
		  if !@ready;
		foreach my $handle (@ready)
		{
			my $number = fileno $handle;

			delete $missing{$number} if $self->_take($missing{$number});
		}
	}
	my @got = map { $self->{sessions}[$_]{got} } @which;
	return wantarray ? @got : $got[0];
}

# Waits for the output of all sessions.
sub collect_all
{
	my ($self) = @_;

	return $self->collect(0 .. $self->count - 1);
}

# Has one session do something, and returns its output without the last newline.
sub run
{
	my ($self, $i, $script) = @_;

	$self->send($i, $script);
	my $got = $self->collect($i);
	chomp $got;
	return $got;
}

# Waits until a session's output, complete or not, matches.
sub wait_for_output
{
	my ($self, $i, $pattern) = @_;
	my $session = $self->{sessions}[$i];
	my $deadline =
	  Time::HiRes::time() + $PostgreSQL::Test::Utils::timeout_default;

	while ($session->{buffer} !~ $pattern)
	{
		_wait_readable(IO::Select->new($session->{out}), $deadline)
		  or die "session $i did not say $pattern";
		sysread($session->{out}, $session->{buffer}, 65536,
			length $session->{buffer})
		  or die "session $i ended: $session->{buffer}";
	}
	return;
}

# Waits until this many of the pool's sessions wait for a lock.
sub wait_blocked
{
	my ($self, $count) = @_;
	my $pids = $self->pids;

	$self->{node}->poll_query_until('postgres',
		"SELECT count(*) = $count FROM pg_stat_activity"
		  . " WHERE pid IN ($pids) AND wait_event_type = 'Lock'")
	  or die "not $count sessions came to wait";
	return;
}

# Kills a session's client, without a word to its server.
sub abandon
{
	my ($self, $i) = @_;

	kill 'KILL', $self->{sessions}[$i]{process};
	$self->collect($i);
	return;
}

# Starts all sessions anew, after a crash that idle ones have not noticed yet.
sub reconnect
{
	my ($self) = @_;

	$self->quit;
	return $self->revive;
}

# Ends all sessions.
sub quit
{
	my ($self) = @_;

	foreach my $session (grep { !$_->{dead} } @{ $self->{sessions} })
	{
		close $session->{in};
		close $session->{out};
		waitpid $session->{process}, 0;
		$session->{dead} = 1;
	}
	return;
}

1;
