package reach

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func TestInside(t *testing.T) {
	t.Parallel()
	for _, ip := range []string{
		"127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255",
		"192.0.0.8", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
		"64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1",
	} {
		if !Inside(netip.MustParseAddr(ip)) {
			t.Errorf("%s is let through", ip)
		}
	}
	for _, ip := range []string{"1.1.1.1", "140.82.121.4", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"} {
		if Inside(netip.MustParseAddr(ip)) {
			t.Errorf("%s is refused", ip)
		}
	}
}

func TestOutside(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"127.0.0.1:80", "[::1]:80", "[fe80::1%lo]:80", "169.254.169.254:80", "10.0.0.1:443"} {
		if err := Outside("tcp", at, nil); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, at := range []string{"1.1.1.1:443", "[2606:4700::1111]:80"} {
		if err := Outside("tcp", at, nil); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, at := range []string{"1.1.1.1", "example.com:80"} {
		if err := Outside("tcp", at, nil); err == nil {
			t.Errorf("%s is let through", at)
		}
	}
}
