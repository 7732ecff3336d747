package secret

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"

	"slipway/access"
)

// A workspace and a project have a key of their own from the first moment, one
// that works, and once it is deleted none.
func TestFirstKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, at := range map[string]Scope{"id_workspace": w.at("", 0, 0), "id_project": w.at(w.p.ID, 0, 0)} {
		l, err := w.Variables(t.Context(), w.token(t, w.admin, access.VariableInfo), at)
		if err != nil || len(l) != 1 {
			t.Fatal(l, err)
		}
		v := l[0]
		if v.Key != name || v.Type != SSHKey || !v.Encrypted || v.Value != Encrypted || v.FilePlace != None {
			t.Errorf("%+v", v)
		}
		open, err := w.Effective(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range open {
			if o.Key != name {
				continue
			}
			key, err := ssh.ParsePrivateKey([]byte(o.Value))
			if err != nil {
				t.Fatal(err)
			}
			pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(v.Public.Line))
			if err != nil || !bytes.Equal(pub.Marshal(), key.PublicKey().Marshal()) || v.Public.Fingerprint != ssh.FingerprintSHA256(pub) || len(v.Public.Checksum) != 64 {
				t.Errorf("%+v: %v", v.Public, err)
			}
			for _, s := range []string{"", "-wal"} {
				b, err := os.ReadFile(w.file + s)
				if err != nil || bytes.Contains(b, []byte("PRIVATE KEY")) || bytes.Contains(b, []byte(strings.Split(o.Value, "\n")[1])) {
					t.Errorf("it is in the store (%q): %v", s, err)
				}
			}
		}
		if err := w.DeleteVariable(t.Context(), w.admin, v.ID); err != nil {
			t.Fatal(err)
		}
		if l, err := w.Variables(t.Context(), w.admin, at); err != nil || len(l) != 0 {
			t.Error(l, err)
		}
	}
	if l, err := w.Variables(t.Context(), w.admin, w.at(w.q.ID, 0, 0)); err != nil || len(l) != 1 {
		t.Error("the other project:", l, err)
	}
}

// What has the name of the first key already stays.
func TestFirstKeyNameTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.at(w.p.ID, 0, 0)
	if _, err := w.CreateVariable(t.Context(), w.admin, Variable{Scope: at, Key: "id_project", Value: "x"}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if l, err := w.Variables(t.Context(), w.admin, at); err != nil || len(l) != 1 || l[0].Type != SSHKey {
		t.Error(l, err)
	}
}

func TestKeysOfAllKinds(t *testing.T) {
	t.Parallel()
	private, err := newKey("x")
	if err != nil {
		t.Fatal(err)
	}
	locked := "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123456789ABCDEF0123456789ABCDEF\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
	for text, public := range map[string]bool{private: true, strings.TrimSpace(private): true, locked: false} {
		p, err := publicOf(text)
		if err != nil || (p.Line != "") != public || (p.Fingerprint != "") != public {
			t.Errorf("%+v %v", p, err)
		}
	}
	for _, none := range []string{"", "x", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"} {
		if _, err := publicOf(none); err == nil {
			t.Errorf("took %q", none)
		}
	}
}
