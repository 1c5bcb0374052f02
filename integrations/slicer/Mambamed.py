"""3D Slicer module: segment a volume or detect its landmarks with a model of mambamed.

mambamed runs as a process of its own Python environment; this module saves the volumes, shows the progress,
and loads the segmentation or the markups. See docs/slicer.md.

This file needs Slicer (5.2 or newer) and has not been run in it. `MambamedLib/process.py` is plain Python and
is tested.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import ctk
import qt
import slicer
from MambamedLib.process import Process, command_words, image_files, read_model, result_file
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

_MILLISECONDS_BETWEEN_UPDATES = 200
_COMMANDS = {"predict": "Segmentation", "landmarks": "Landmarks"}
_PROGRAM_SETTING, _MODEL_SETTING = "Mambamed/Program", "Mambamed/Model"


class Mambamed(ScriptedLoadableModule):
    """What Slicer's list of modules shows."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "mambamed"
        parent.categories = ["Segmentation"]
        parent.dependencies = []
        parent.contributors = ["The mambamed developers"]
        parent.helpText = (
            "Segments a volume or detects its landmarks with a model of mambamed, which is installed in a "
            "Python environment of its own. Give the path of its program 'mambamed'."
        )
        parent.acknowledgementText = ""


class MambamedWidget(ScriptedLoadableModuleWidget):
    """The panel: program, model, volumes; one process at a time."""

    def setup(self):
        super().setup()
        self._process = None
        self._work = None  # folder of the process
        self._command, self._volumes = "", []
        self._shown = 0  # messages
        self._timer = qt.QTimer()
        self._timer.setInterval(_MILLISECONDS_BETWEEN_UPDATES)
        self._timer.connect("timeout()", self._update)
        settings = qt.QSettings()

        box = ctk.ctkCollapsibleButton()
        box.text = "Model and volumes"
        self.layout.addWidget(box)
        self._form = qt.QFormLayout(box)
        self._program = qt.QLineEdit(settings.value(_PROGRAM_SETTING) or shutil.which("mambamed") or "")
        self._program.toolTip = "Path of the program mambamed, in the environment where it is installed"
        self._form.addRow("Program:", self._program)
        self._model = qt.QLineEdit(settings.value(_MODEL_SETTING) or "")
        self._model.toolTip = "Run folder, model file (*.mambamed), or hf://org/name"
        self._form.addRow("Model:", self._model)
        self._task = qt.QComboBox()
        for command, name in _COMMANDS.items():
            self._task.addItem(name, command)
        self._form.addRow("Task:", self._task)
        self._device = qt.QComboBox()
        self._device.addItems(["auto", "cpu", "cuda", "mps"])
        self._form.addRow("Device:", self._device)
        self._selectors = []

        self._run = qt.QPushButton("Apply")
        self.layout.addWidget(self._run)
        self._bar = qt.QProgressBar()
        self._bar.setRange(0, 100)
        self.layout.addWidget(self._bar)
        self._status = qt.QLabel()
        self.layout.addWidget(self._status)
        self._log = qt.QPlainTextEdit()
        self._log.readOnly = True
        self.layout.addWidget(self._log)
        self.layout.addStretch(1)

        self._model.connect("editingFinished()", self._show_model)
        self._run.connect("clicked()", self._run_or_cancel)
        self._show_model()

    def cleanup(self):
        self._timer.stop()
        if self._process is not None:
            self._process.end()
        self._remove_work()

    def _show_model(self):
        """One selector per channel of the model, and its task."""
        model = read_model(self._model.text)
        channels = model.channels if model else ("Volume",)
        for selector in self._selectors:
            self._form.removeRow(selector)
        self._selectors = []
        for channel in channels:
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.addEnabled = selector.removeEnabled = selector.renameEnabled = False
            selector.setMRMLScene(slicer.mrmlScene)
            self._form.addRow(f"{channel}:", selector)
            self._selectors.append(selector)
        if model and model.command in _COMMANDS:
            self._task.setCurrentIndex(list(_COMMANDS).index(model.command))
        self._run.enabled = not (model and model.command not in _COMMANDS)
        self._status.text = "" if self._run.enabled else "Models for classification are not supported here."

    def _run_or_cancel(self):
        if self._process is not None:
            self._process.cancel()
            self._status.text = "stopping; click again to end the process at once"
            return
        self._volumes = [selector.currentNode() for selector in self._selectors]
        if None in self._volumes:
            slicer.util.errorDisplay("Choose a volume for every channel.")
            return
        qt.QSettings().setValue(_PROGRAM_SETTING, self._program.text)
        qt.QSettings().setValue(_MODEL_SETTING, self._model.text)
        self._command = self._task.currentData
        self._work = Path(tempfile.mkdtemp(prefix="mambamed-", dir=slicer.app.temporaryPath))
        with slicer.util.tryWithErrorDisplay("mambamed could not be started.", waitCursor=True):
            files = image_files(self._work, len(self._volumes))
            for node, path in zip(self._volumes, files):  # noqa: B905 - Slicer may have Python 3.9
                if not slicer.util.exportNode(node, str(path)):
                    raise OSError(f"{path}: {node.GetName()} could not be saved.")
            words = command_words(
                self._program.text, self._command, self._model.text, self._work, self._device.currentText
            )
            self._process = Process(words, slicer.util.startupEnvironment())
        if self._process is None:
            self._remove_work()
            return
        self._log.clear()
        self._shown = 0
        self._run.text = "Cancel"
        self._timer.start()

    def _update(self):
        """Show what the process has reported, and load the result when it has ended."""
        running = self._process.update()
        state = self._process.state
        for message in state.messages[self._shown :]:
            self._log.appendPlainText(message)
        self._shown = len(state.messages)
        if running:
            self._bar.value = round(100 * (state.fraction or 0.0))
            if not self._process.cancelled:
                self._status.text = state.text
            return
        self._timer.stop()
        process, self._process = self._process, None
        self._run.text = "Apply"
        self._bar.value = 100 if process.succeeded else 0
        if process.succeeded:
            self._status.text = "done"
            with slicer.util.tryWithErrorDisplay("The result could not be loaded.", waitCursor=True):
                self._load(result_file(self._command, self._work))
        elif process.cancelled:
            self._status.text = "cancelled"
        else:
            self._status.text = "failed"
            slicer.util.errorDisplay("\n".join(state.faults))
        self._remove_work()

    def _load(self, path):
        """Load a segmentation or markups, at the place of the first volume."""
        volume = self._volumes[0]
        if self._command == "landmarks":
            node = slicer.util.loadMarkups(str(path))
        else:
            node = slicer.util.loadSegmentation(str(path))
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            node.CreateClosedSurfaceRepresentation()
        node.SetName(f"{volume.GetName()} {_COMMANDS[self._command].lower()}")
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())

    def _remove_work(self):
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None
