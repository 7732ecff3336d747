package serve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// complete reads a configuration from arguments, environment and a file.
func complete(t *testing.T, args, environ []string, file string) (Config, error) {
	t.Helper()
	var c Config
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.Flags(f)
	if file != "" {
		p := filepath.Join(t.TempDir(), "slipway.yaml")
		if err := os.WriteFile(p, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", p)
	}
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	err := c.Complete(f, environ)
	return c, err
}

func TestFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	t.Parallel()
	c, err := complete(t, []string{"--domain", "flag.example"},
		[]string{"SLIPWAY_DOMAIN=env.example", "SLIPWAY_LOG_LEVEL=debug", "SLIPWAY_REGISTRY_MIRROR=a=http://b,c=https://d", "HOME=/"},
		"domain: file.example\nlog-level: error\nlog-format: json\nbuilds-parallel: 3\ndata-dir: /srv/x\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Domain != "flag.example" || c.LogLevel != "debug" || c.LogFormat != "json" || c.BuildsParallel != 3 || len(c.Mirrors) != 2 || c.DataDir != "/srv/x" {
		t.Errorf("%+v", c)
	}
	for name, want := range map[string]string{"domain": "flag", "log-level": "environment", "log-format": "file", "listen": "default"} {
		if c.Sources[name] != want {
			t.Errorf("%s came from %s, want %s", name, c.Sources[name], want)
		}
	}
	if c.PublicURL != "http://127.0.0.1:8080" || c.MasterKeyFile != "/srv/x/master.key" {
		t.Errorf("%+v", c)
	}
}

func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	c, err := complete(t, []string{"--trusted-proxies", "10.1.2.3/8", "--trusted-proxies", "192.0.2.7", "--trusted-proxies", "::1", "--trusted-proxies", "2001:db8::/32"}, nil, "")
	if got := fmt.Sprint(c.proxies); err != nil || got != "[10.0.0.0/8 192.0.2.7/32 ::1/128 2001:db8::/32]" {
		t.Errorf("%s %v", got, err)
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args, environ []string
		file, want    string
	}{
		"listen":      {[]string{"--listen", "8080"}, nil, "", "--listen"},
		"port":        {[]string{"--ingress-http", "127.0.0.1:99999"}, nil, "", "--ingress-http"},
		"public url":  {[]string{"--public-url", "example.com"}, nil, "", "--public-url"},
		"public path": {[]string{"--public-url", "http://a/b"}, nil, "", "--public-url"},
		"engine":      {[]string{"--engine", "kubernetes"}, nil, "", "--engine"},
		"database":    {[]string{"--database", "postgres://x"}, nil, "", "--database"},
		"later":       {[]string{"--acme-email", "a@b"}, nil, "", "--acme-email"},
		"mirror":      {[]string{"--registry-mirror", "docker.io"}, nil, "", "--registry-mirror"},
		"ca":          {[]string{"--registry-ca", "/nowhere"}, nil, "", "--registry-ca"},
		"size":        {[]string{"--push-max", "lots"}, nil, "", "--push-max"},
		"share":       {[]string{"--cache-max", "120%"}, nil, "", "--cache-max"},
		"proxies":     {[]string{"--trusted-proxies", "x"}, nil, "", "--trusted-proxies"},
		"proxy":       {[]string{"--trusted-proxies", "10.0.0.1", "--trusted-proxies", "10.0.0.0/33"}, nil, "", `--trusted-proxies: "10.0.0.0/33"`},
		"level":       {[]string{"--log-level", "loud"}, nil, "", "--log-level"},
		"tls":         {[]string{"--tls-cert", "x"}, nil, "", "--tls-key"},
		"data dir":    {[]string{"--data-dir", "/"}, nil, "", "--data-dir"},
		"domain":      {[]string{"--domain", "a:b"}, nil, "", "--domain"},
		"environment": {nil, []string{"SLIPWAY_BUILDS_PARALLEL=many"}, "", "builds-parallel (from the environment)"},
		"file":        {nil, nil, "log-keep: soon\n", "log-keep (from the file)"},
		"unknown key": {nil, nil, "lisen: x\n", `no setting "lisen"`},
		"no yaml":     {nil, nil, "a: [\n", "--config"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := complete(t, c.args, c.environ, c.file)
			var w *Wrong
			if !errors.As(err, &w) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want a Wrong that names %q", err, c.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{"1": 1, "1000B": 1000, "2KB": 2000, "2KiB": 2048, "1.5GiB": 3 << 29, "20%": 200, "5 MiB": 5 << 20} {
		if got, err := size(in, 1000); got != want || err != nil {
			t.Errorf("%s: %d %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "0", "1XB", "1 2", "101%"} {
		if got, err := size(in, 1000); err == nil {
			t.Errorf("%q is %d", in, got)
		}
	}
}
