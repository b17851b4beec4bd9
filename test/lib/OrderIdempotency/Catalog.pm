# What the catalogs say of the extension, and how two databases differ in it;
# describe_extension.sql, which lies beside, says what is compared.

package OrderIdempotency::Catalog;

use strict;
use warnings;

use Exporter 'import';
use File::Spec;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(catalog_of catalog_differences same_catalog);

# Everything that a database's catalogs say of the extension: a hash of "object:
# property" to its values.  Option: after, SQL that is run before in the same
# transaction, which is rolled back.
sub catalog_of
{
	my ($node, $db, %opt) = @_;
	my $file = File::Spec->catfile($FindBin::RealBin, '..', 'lib', 'describe_extension.sql');
	my %catalog;

	my $output = $node->safe_psql($db,
		"BEGIN;\n" . ($opt{after} // '') . "\n" . slurp_file($file) . "\nROLLBACK;");
	foreach my $line (split /\n/, $output)
	{
		my ($object, $property, $value) = split /\x1f/, $line;

		push @{ $catalog{"$object: $property"} }, $value =~ tr/\x1e/\n/r;
	}
	return \%catalog;
}

# One value beside another: the lines that are not the same.
sub _beside
{
	my ($expected, $got) = @_;
	my @expected = split /\n/, $expected;
	my @got = split /\n/, $got;
	my (@lines, %expected, %got);

	$expected{$_}++ foreach @expected;
	$got{$_}++ foreach @got;
	push @lines, "    expected: $_" foreach grep { !$got{$_} } @expected;
	push @lines, "    got:      $_" foreach grep { !$expected{$_} } @got;
	push @lines, '    the same lines in another order or number' if !@lines;
	return @lines;
}

# How a catalog differs from the one that is expected: a line for each property,
# and what it is.  An object that is missing or that should not be there is told
# of once.
sub catalog_differences
{
	my ($expected, $got) = @_;
	my @lines;

	foreach my $key (sort keys %{ { %$expected, %$got } })
	{
		my ($want, $have) =
		  map { defined $_ ? join("\n", @$_) : undef } $expected->{$key}, $got->{$key};

		next if defined $want && defined $have && $want eq $have;
		my ($object, $kind) = $key =~ /\A(.*): (.*?)\z/s;
		my $absent = !exists $expected->{"$object: kind"} ? $expected
		  : !exists $got->{"$object: kind"} ? $got : undef;

		# the kind stands for all else of an object that only one has
		next if $absent && $kind ne 'kind' && exists { %$expected, %$got }->{"$object: kind"};
		push @lines, $key;
		push @lines, !defined $want ? '    is not expected' : !defined $have ? '    is missing'
		  : _beside($want, $have);
	}
	return @lines;
}

# Checks that a database has the catalog that is expected, and shows where not.
# Option: except, a pattern of what is not to be looked at.
sub same_catalog
{
	my ($expected, $got, $what, %opt) = @_;

	if ($opt{except})
	{
		delete @$_{ grep { /$opt{except}/ } keys %$_ } foreach $expected, $got;
	}
	my @lines = catalog_differences($expected, $got);

	ok(!@lines, "$what: the same catalog (" . keys(%$expected) . ' properties)')
	  or diag(join "\n", @lines);
	return;
}

1;
