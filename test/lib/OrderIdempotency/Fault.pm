# Servers in which something goes wrong at a point of the workers that the test
# chooses; test/modules/fault/fault.c says what, src/fault.c where.

package OrderIdempotency::Fault;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(fault_conf prepare_faults set_fault wait_for_fault has_faults end_hang);

# What a server's configuration has to have.
sub fault_conf
{
	return "shared_preload_libraries = 'order_idempotency, test_clock, test_fault'\n";
}

# Makes the directory for orders.
sub prepare_faults
{
	my ($node) = @_;

	mkdir $node->data_dir . '/faults' or die "could not create directory: $!";
	return;
}

# Where the order for a point, and a subscription's worker, is.
sub _path
{
	my ($node, $point, $subscription) = @_;

	return $node->data_dir . "/faults/$point"
	  . (defined $subscription ? " of order_idempotency $subscription" : '');
}

# Orders what is to be done at a point, the n-th time that it is come to.  Options:
# n, 1 if not given; of, only by the worker of that subscription.
sub set_fault
{
	my ($node, $point, $action, %opt) = @_;
	my $path = _path($node, $point, $opt{of});

	# it must not be seen before it is whole
	append_to_file("$path.new", ($opt{n} // 1) . " $action\n");
	rename "$path.new", $path or die "could not rename $path.new: $!";
	return;
}

# Waits until there is, or is not, a file.
sub _wait_for_file
{
	my ($path, $there) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while ((-e $path ? 1 : 0) != $there)
	{
		return 0 if time > $deadline;
		usleep(2000);
	}
	return 1;
}

# Waits until what was ordered was done; a process that hangs is there by then.
sub wait_for_fault
{
	my ($node, $point, %opt) = @_;
	my $path = _path($node, $point, $opt{of});

	return _wait_for_file($path, 0);
}

# Has a process that hangs go on.
sub end_hang
{
	my ($node, $point, %opt) = @_;

	unlink _path($node, $point, $opt{of}) . '.reached' or die "nothing hangs at $point";
	return;
}

# Is there an order that nobody has come to?
sub has_faults
{
	my ($node) = @_;

	return scalar grep { !/\.reached\z/ } glob $node->data_dir . '/faults/*';
}

1;
