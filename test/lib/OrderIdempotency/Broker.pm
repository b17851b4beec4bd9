# A real message broker on a free port of the loopback interface, as a child of the
# test: what the modules of single brokers have in common.  It can be killed,
# stopped and started again on the same port and data, and is gone when the test
# ends, however that ends.
#
# A broker that is not installed has its test skipped, by name; with CI=true in the
# environment that is a failure.

package OrderIdempotency::Broker;

use strict;
use warnings;

use Exporter 'import';
use File::Path qw(make_path);
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

our @EXPORT = qw(require_broker free_port wait_for);

# what was started, for the end
my %running;

# Leaves the test out where a program or a sink's library is missing, each given
# as [ what it is, whether it is there ].
sub require_broker
{
	foreach (@_)
	{
		my ($what, $there) = @$_;

		next if $there;
		plan skip_all => "$what is missing" if ($ENV{CI} // '') ne 'true';
		fail("$what is there, as CI is set");
		done_testing();
		exit 1;
	}
	return;
}

# A port that nobody listens on now, and that was not given before.  It is below those that the
# kernel gives to connections, net.ipv4.ip_local_port_range: one of these could be taken
# while a broker is down that is to come back on it.
my %given;

sub free_port
{
	while (1)
	{
		my $port = 16384 + int rand 16384;

		return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp', Listen => 1)
		  && !$given{$port}++;
	}
}

# Waits until a function returns something true, and returns that.
sub wait_for
{
	my ($what, $check, $seconds) = @_;
	my $deadline = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		my $answer = $check->();

		return $answer if $answer;
		die "waited in vain for $what" if time > $deadline;
		sleep 0.05;
	}
}

# A broker.  Options: name; dir, for its data and log; command, a list, or a
# function that returns one; ready, a function that says whether it answers; env, of
# its process.
sub new
{
	my ($class, %opt) = @_;
	my $self = bless {%opt}, $class;

	make_path($self->{dir});
	return $self;
}

# The file that it writes its messages to.
sub log_file
{
	my ($self) = @_;

	return "$self->{dir}/$self->{name}.log";
}

# Starts it, in a process group of its own, and waits until it answers.
sub start
{
	my ($self) = @_;
	my @command = ref $self->{command} eq 'CODE' ? $self->{command}->() : @{ $self->{command} };
	my $log = $self->log_file;
	my $pid = fork // die "could not fork: $!";

	if ($pid == 0)
	{
		setpgrp 0, 0;
		$ENV{$_} = $self->{env}{$_} foreach keys %{ $self->{env} // {} };
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $log;
		open STDERR, '>&', \*STDOUT;
		chdir $self->{dir};
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	setpgrp $pid, $pid;
	$self->{pid} = $pid;
	$running{$pid} = 1;
	wait_for("$self->{name} to answer",
		sub { $self->_reaped ? die "$self->{name} ended:\n" . slurp_file($log) : $self->{ready}->() });
	return $self;
}

# Has it ended?
sub _reaped
{
	my ($self) = @_;

	return 1 if !$self->{pid} || !$running{ $self->{pid} };
	return 0 if waitpid($self->{pid}, POSIX::WNOHANG()) == 0;
	$self->{status} = $?;
	delete $running{ $self->{pid} };
	return 1;
}

# How it ended.
sub status { return $_[0]->{status} }

# Is it at work?
sub is_running { return !$_[0]->_reaped }

# Ends it and all of its children by a signal (KILL: as a power cut would), and waits for that.
sub kill9 { return $_[0]->_end('KILL') }
sub stop { return $_[0]->_end('TERM') }

sub _end
{
	my ($self, $signal) = @_;
	my $pid = $self->{pid};

	return if !$pid || $self->_reaped;
	kill $signal, -$pid;
	kill 'CONT', -$pid;
	wait_for("$self->{name} to end", sub { $self->_reaped });
	kill 'KILL', -$pid;    # what it left
	return;
}

# Has it stand still, with its connections open, and go on.
sub freeze { return kill 'STOP', -$_[0]->{pid} }
sub thaw { return kill 'CONT', -$_[0]->{pid} }

END
{
	my $status = $?;

	foreach my $pid (keys %running)
	{
		kill 'KILL', -$pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

1;
