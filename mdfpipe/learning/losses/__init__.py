"""Losses and what is mined for them: functions of features and labels. A recipe imports what it needs."""
