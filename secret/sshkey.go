package secret

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway/access"
	"slipway/db"
)

// Public is what may be known of a private key.
type Public struct {
	Line        string // its public key, as in authorized_keys; "" if only a passphrase would tell
	Fingerprint string // of that, as ssh-keygen writes it: SHA256:...
	Checksum    string // SHA-256 of the private key's text, in hex
}

// publicOf reads a private key. One that a passphrase protects is good, too:
// programs in a container may know it.
func publicOf(private string) (Public, error) {
	sum := sha256.Sum256([]byte(private))
	out := Public{Checksum: hex.EncodeToString(sum[:])}
	var key ssh.PublicKey
	var locked *ssh.PassphraseMissingError
	switch signer, err := ssh.ParsePrivateKey([]byte(private)); {
	case err == nil:
		key = signer.PublicKey()
	case errors.As(err, &locked):
		key = locked.PublicKey
	default:
		return Public{}, err
	}
	if key != nil {
		out.Line, out.Fingerprint = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ssh.FingerprintSHA256(key)
	}
	return out, nil
}

// newKey makes a private key in the format of OpenSSH.
func newKey(comment string) (string, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return "", fmt.Errorf("make the key %s: %w", comment, err)
	}
	return string(pem.EncodeToMemory(block)), nil
}

// keyOf is the name of the key that every workspace or project has at first; ""
// at narrower places.
func (s Scope) keyOf() string {
	switch {
	case s.Action != 0, s.Pipeline != 0, s.Environment != "":
		return ""
	case s.Project != "":
		return "id_project"
	}
	return "id_workspace"
}

// hasKey tells whether a place has got the key that it has at first, or needs
// none.
func hasKey(tx *db.Tx, at Scope) (bool, error) {
	if at.keyOf() == "" {
		return true, nil
	}
	var n int
	err := tx.QueryRow(`SELECT COUNT(*) FROM variable_defaults WHERE workspace = ? AND place = ?`, at.Workspace, at.place()).Scan(&n)
	return n > 0, err
}

// giveKey gives a workspace or project its key, once: who deletes it has none.
// A variable that has its name already stays instead.
func (s *Secrets) giveKey(tx *db.Tx, at Scope) error {
	name := at.keyOf()
	if name == "" {
		return nil
	}
	n, err := tx.Exec(`INSERT INTO variable_defaults (workspace, project, place) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		at.Workspace, orNull(string(at.Project)), at.place())
	if err != nil || n == 0 {
		return err
	}
	if l, err := s.variables(tx, `WHERE workspace = ? AND place = ? AND name = ?`, at.Workspace, at.place(), name); err != nil || len(l) > 0 {
		return err
	}
	key, err := newKey(name)
	if err != nil {
		return err
	}
	_, err = s.insertWhole(tx, Variable{
		Scope: at, Key: name, Value: key, Type: SSHKey, Encrypted: true, FilePlace: None, FilePath: "~/.ssh/" + name, FileMode: "600",
	})
	return err
}

// withKey lists the variables of exactly a place that the actor may read; a
// place that has none of its own yet gets its key.
func (s *Secrets) withKey(tx *db.Tx, by access.Actor, at Scope) ([]Variable, error) {
	if err := allow(tx, by, at, access.VariableInfo); err != nil {
		return nil, err
	}
	if err := s.giveKey(tx, at); err != nil {
		return nil, err
	}
	return s.variables(tx, `WHERE workspace = ? AND place = ? ORDER BY id`, at.Workspace, at.place())
}
